"""Units as far as equations need them: which words can be one, and by what factors one turns into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

NO_UNITS = frozenset(
    {"is", "are", "was", "were", "has", "have", "had", "he", "she", "they", "it", "we", "i", "there"}
    | {"and", "so", "then", "that", "which", "but", "because", "if", "when", "for", "thus", "therefore", "by"}
    | {"gives", "equals", "means", "makes", "costs", "cost"}
)
# Words that end a phrase rather than name a unit: a number before them belongs to the sentence, not to the equation.

_NO_PLAIN_UNITS = frozenset(
    {"squared", "cubed", "square", "factorial", "percent", "hundred", "thousand", "million", "billion", "trillion"}
    | {"am", "pm", "of", "off", "or", "to", "in", "at", "than", "more", "les", "less", "mod", "choose", "each", "half"}
    | {"third", "quarter", "fifth", "()", "per", "over", "from", "with", "the", "st", "nd", "rd", "th", "not"}
    | {"log", "root"}
)
# Words behind an operand that do something to it.

_IRREGULAR = {"feet": "foot", "inches": "inch", "pennies": "penny", "centuries": "century", "ft": "foot", "lb": "pound"}
_METRIC = ("kg", "g", "mg", "km", "m", "mm", "ml", "l", "ton", "tonne", "meter", "metre", "gram", "liter", "litre")
_LONG_METRIC = tuple(f"{prefix}{unit}" for prefix in ("kilo", "milli") for unit in _METRIC[-5:])
_SAME = dict.fromkeys((*_METRIC, *_LONG_METRIC), "metric") | {
    "hr": "hour", "min": "minute", "sec": "second", "oz": "ounce",
}  # fmt: skip
_FACTORS = {
    "second": (60, 3600), "minute": (60, 3600), "hour": (24, 60, 3600), "day": (7, 24, 30, 365, 1440),
    "week": (7, 52, 168), "month": (12, 30), "year": (12, 52, 365), "decade": (10,), "century": (100,),
    "dollar": (100,), "buck": (100,), "cent": (100,), "penny": (100,), "dime": (10,), "nickel": (5, 20),
    "quarter": (4, 25),
    "metric": (1000, 100, 10, 1_000_000), "cm": (100, 10), "centimeter": (100, 10), "centimetre": (100, 10),
    "inch": (12, 36), "foot": (3, 12, 5280), "yard": (3, 36, 1760), "mile": (1760, 5280),
    "pound": (16, 2000), "ounce": (8, 16, 32, 128), "cup": (2, 4, 8, 16), "pint": (2, 8, 16), "quart": (2, 4, 32),
    "gallon": (4, 8, 16, 128), "pair": (2,), "couple": (2,), "dozen": (12,), "tablespoon": (3, 16), "teaspoon": (3, 48),
}  # fmt: skip
# Of each unit: how many of another one make it, or it makes.


def base_form(word: str) -> str:
    """A unit's name without plural and full stop: "hrs." -> "hour", "pens" -> "pen"."""
    word = word.rstrip(".")
    word = _IRREGULAR.get(word, word)
    word = word[:-1] if word.endswith("s") and len(word) > 3 or word in ("kgs", "lbs") else word
    word = _IRREGULAR.get(word, word)
    return _SAME.get(word, word)


def are_plain(operators: Sequence[str], operands: Sequence[Sequence[str]], result: Sequence[str]) -> bool:
    """Whether the units of `operands` and `result` leave a calculation what it is: "24 miles + 12 miles = 36 miles".

    They do where the same unit is added or subtracted throughout, and in products ("5 boxes * 3 pens = 15 pens").
    """
    words = [word for units in operands for word in units]
    if any(len(word) < 2 or base_form(word) in _NO_PLAIN_UNITS for word in words):
        return False
    if all(operator == "*" for operator in operators):
        return all(len(units) <= 1 for units in operands)
    same = {base_form(word) for word in (*words, *result[:1])}
    return set(operators) <= {"+", "-"} and len(same) == 1 and bool(result) and all(len(one) == 1 for one in operands)


def is_conversion(unit: str, value: Fraction, is_stated: Callable[[Fraction], bool]) -> bool:
    """Whether `value`, counted in another unit, `is_stated` in `unit` (of any unit without conversions: False)."""
    factors = _FACTORS.get(base_form(unit), ())
    return any(is_stated(value * factor) or is_stated(value / factor) for factor in factors)
