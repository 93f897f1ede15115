"""Words that fill the slots of the arithmetic templates. Data only.

Names carry a pronoun, things a singular and a plural; every word is lower-case ASCII except names and places.
"""

from __future__ import annotations

SHE_NAMES = (
    "Mia", "Anna", "Lena", "Sara", "Nora", "Ella", "Ruth", "Rosa", "Emma", "Alice", "Clara", "Diana", "Grace",
    "Hanna", "Irene", "Julia", "Laura", "Maria", "Olga", "Paula", "Sofia", "Tina", "Vera", "Zoe",
)  # fmt: skip
HE_NAMES = (
    "Tom", "Ben", "Max", "Paul", "Adam", "Carl", "David", "Eric", "Frank", "Henry", "Ivan", "Jack", "Kevin",
    "Leo", "Mark", "Noah", "Oscar", "Peter", "Ralph", "Sam", "Tim", "Victor", "Walter", "Luke",
)  # fmt: skip

# Singular and plural of small things that can be counted, sold, packed and given away.
THINGS = (
    ("clip", "clips"), ("pen", "pens"), ("apple", "apples"), ("stamp", "stamps"), ("marble", "marbles"),
    ("card", "cards"), ("button", "buttons"), ("candle", "candles"), ("cookie", "cookies"), ("shell", "shells"),
    ("coin", "coins"), ("sticker", "stickers"), ("ribbon", "ribbons"), ("orange", "oranges"), ("pencil", "pencils"),
    ("balloon", "balloons"), ("magnet", "magnets"), ("bead", "beads"), ("lemon", "lemons"), ("postcard", "postcards"),
    ("muffin", "muffins"), ("brush", "brushes"), ("cup", "cups"), ("plate", "plates"), ("toy", "toys"),
    ("badge", "badges"), ("spoon", "spoons"), ("lamp", "lamps"), ("key", "keys"), ("bottle", "bottles"),
    ("flower", "flowers"), ("egg", "eggs"), ("nut", "nuts"), ("pear", "pears"), ("plum", "plums"),
    ("roll", "rolls"), ("doll", "dolls"), ("kite", "kites"), ("ball", "balls"), ("hat", "hats"),
    ("scarf", "scarves"), ("mug", "mugs"), ("poster", "posters"), ("map", "maps"),
)  # fmt: skip

PLACES = (
    "the market", "the school fair", "the harbor", "the park", "the village shop", "the train station", "the museum",
    "the old mill", "the town hall", "the library", "the beach", "the farm", "the bakery", "the garden show",
)  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
