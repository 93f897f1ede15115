"""The arithmetic word-problem templates. Data only; `arithmetic` draws, renders and solves them.

A question holds slots: `{a}` to `{e}` are numbers; `{name}`, `{other}`, `{thing}`, `{things}`, `{item}`, `{items}`,
`{place}`, `{day}`, `{day2}` are words. A step is a sentence; `<a/2>` in it becomes the equation "48/2 = 24", and `r1`,
`r2` are the results of the first and second equation. A draw counts only if every result is a whole number
(at most one decimal where `decimals`) of at least 2, so ranges need no further conditions.
The first `TRAINED` templates are the ones recipes train on; the others are of the same nature and stay unseen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """One kind of word problem."""

    id: str
    question: str
    numbers: dict[str, tuple[int, int] | tuple[float, float, float]]
    # Slot to (lowest, highest) whole number, or (lowest, highest, step).
    steps: tuple[str, ...]
    # Solution sentences in order, one equation each [2 or 3].
    decimals: bool = False
    # Whether results may have one decimal.
    trained: bool = False
    # Whether recipes may train on it; the others stay unseen.


_TRAINED = (
    Template(
        "half_then_sum",
        "{name} sold {a} {things} at {place} in April and then half as many {things} in May. "
        "How many {things} did {name} sell altogether in April and May?",
        {"a": (10, 198, 2)},
        ("In May {name} sold <a/2> {things}.", "In April and May together {name} sold <a+r1> {things}."),
    ),
    Template(
        "boxes_and_loose",
        "{name} has {a} boxes with {b} {things} in each box, and there are {c} more {things} on the table. "
        "How many {things} does {name} have in all?",
        {"a": (3, 12), "b": (4, 20), "c": (3, 30)},
        ("The boxes hold <a*b> {things}.", "With the ones on the table {name} has <r1+c> {things} in all."),
    ),
    Template(
        "give_then_share",
        "{name} picked {a} {things} and gave {b} of them to {other}. The rest was shared equally by {c} friends. "
        "How many {things} did each friend get?",
        {"a": (20, 99), "b": (3, 19), "c": (2, 9)},
        ("After the gift {name} had <a-b> {things} left.", "Each of the {c} friends got <r1/c> {things}."),
    ),
    Template(
        "change_from_note",
        "One {thing} costs {a} dollars at {place}. {name} buys {b} {things} and pays with {c} dollars. "
        "How many dollars does {name} get back?",
        {"a": (2, 15), "b": (3, 12), "c": (50, 200, 10)},
        ("The {b} {things} cost <a*b> dollars together.", "As change {name} gets <c-r1> dollars back."),
    ),
    Template(
        "rows_after_storm",
        "{name} planted {a} rows of trees with {b} trees in each row. In the winter a storm broke {c} of the trees. "
        "How many trees are still standing?",
        {"a": (4, 15), "b": (5, 20), "c": (3, 40)},
        ("At first there were <a*b> trees in the rows.", "After the storm <r1-c> trees are still standing."),
    ),
    Template(
        "two_days_pay",
        "{name} earns {a} dollars an hour. On {day} {name} worked {b} hours and on {day2} {c} hours. "
        "How many dollars did {name} earn on both days?",
        {"a": (6, 30), "b": (2, 9), "c": (2, 9)},
        ("On both days {name} worked <b+c> hours.", "For these hours {name} earned <r1*a> dollars in all."),
    ),
    Template(
        "two_kinds_of_bags",
        "{name} bought {a} small bags with {b} {things} in each and {c} large bags with {d} {things} in each. "
        "How many {things} did {name} buy?",
        {"a": (2, 9), "b": (3, 12), "c": (2, 9), "d": (13, 30)},
        (
            "The small bags hold <a*b> {things}.",
            "The large bags hold <c*d> {things}.",
            "Together {name} bought <r1+r2> {things}.",
        ),
    ),
    Template(
        "more_than_friend",
        "{name} has {a} {things}, and {other} has {b} more {things} than {name}. They put all of them on one table. "
        "How many {things} are on the table?",
        {"a": (8, 90), "b": (3, 60)},
        ("{other} has <a+b> {things} alone.", "On the table there are <a+r1> {things} of {name} and {other}."),
    ),
    Template(
        "times_as_many_then_gift",
        "{name} found {a} {things} last week and {b} times as many this week. "
        "Then {name} gave {c} {things} to {other}. "
        "How many {things} does {name} have now?",
        {"a": (6, 40), "b": (2, 6), "c": (3, 30)},
        (
            "This week {name} found <a*b> {things}.",
            "In both weeks that makes <a+r1> {things}.",
            "After the gift <r2-c> {things} remain.",
        ),
    ),
    Template(
        "pages_a_day",
        "{name} is reading a book of {a} pages and has read {b} pages so far. "
        "{name} wants to read the rest in {c} days. "
        "How many pages must {name} read each day?",
        {"a": (60, 300, 5), "b": (10, 59), "c": (3, 12)},
        ("There are <a-b> pages left to read.", "In {c} days this means <r1/c> pages on each day."),
    ),
    Template(
        "baked_and_packed",
        "{name} baked {a} cakes in the morning and {b} cakes in the afternoon. The cakes are packed into boxes of {c}. "
        "How many boxes does {name} fill?",
        {"a": (12, 80), "b": (12, 80), "c": (3, 9)},
        ("During the whole day {name} baked <a+b> cakes.", "Packed in boxes of {c} this gives <r1/c> boxes."),
    ),
    Template(
        "saving_for_a_thing",
        "{name} saves {a} dollars every week. After {b} weeks {name} buys a new {thing} and a bag for {c} dollars. "
        "How many dollars does {name} have left?",
        {"a": (6, 30), "b": (4, 12), "c": (8, 60)},
        ("In {b} weeks {name} saved <a*b> dollars.", "After buying the {thing} <r1-c> dollars are left."),
    ),
)

_UNSEEN = (
    Template(
        "third_then_sum",
        "In the first hour {name} counted {a} {things} at {place}, and in the second hour a third as many. "
        "How many {things} did {name} count in the two hours?",
        {"a": (12, 180, 3)},
        ("In the second hour {name} counted <a/3> {things}.", "In the two hours {name} counted <a+r1> {things}."),
    ),
    Template(
        "double_minus_broken",
        "{name} made {a} {things} on {day} and twice as many on {day2}. Later {b} of all the {things} broke. "
        "How many whole {things} does {name} have?",
        {"a": (10, 60), "b": (3, 29)},
        (
            "On {day2} {name} made <a*2> {things}.",
            "On both days that makes <a+r1> {things}.",
            "Without the broken ones <r2-b> {things} are whole.",
        ),
    ),
    Template(
        "teams",
        "There are {a} girls and {b} boys in the sports club of {name}. They are divided into teams of {c} children. "
        "How many teams are there?",
        {"a": (12, 60), "b": (12, 60), "c": (3, 9)},
        ("In the sports club there are <a+b> children.", "Divided into teams of {c} this gives <r1/c> teams."),
    ),
    Template(
        "bus_seats",
        "{a} buses with {b} seats each leave for {place} in the morning. On this trip {c} of the seats stay empty. "
        "How many people ride on the buses?",
        {"a": (2, 9), "b": (20, 60), "c": (3, 30)},
        ("All the buses together have <a*b> seats.", "With the empty seats taken away <r1-c> people ride."),
    ),
    Template(
        "orchard_boxes",
        "In the garden of {name} there are {a} trees, and every tree gives {b} pears. "
        "All pears are packed into boxes of {c}. "
        "How many boxes are filled?",
        {"a": (4, 20), "b": (6, 30), "c": (3, 12)},
        ("All the trees together give <a*b> pears.", "In boxes of {c} these pears fill <r1/c> boxes."),
    ),
    Template(
        "two_purchases",
        "{name} buys {a} {things} for {b} dollars each and {c} {items} for {d} dollars each at {place}. "
        "How many dollars does {name} pay in all?",
        {"a": (2, 12), "b": (2, 12), "c": (2, 12), "d": (2, 12)},
        (
            "The {things} cost <a*b> dollars.",
            "The {items} cost <c*d> dollars.",
            "In all {name} pays <r1+r2> dollars.",
        ),
    ),
    Template(
        "ages",
        "{name} is {a} years old. "
        "The aunt of {name} is {b} times as old, and the grandfather is {c} years older than the aunt. "
        "How old is the grandfather?",
        {"a": (7, 14), "b": (3, 5), "c": (18, 35)},
        ("The aunt of {name} is <a*b> years old.", "The grandfather of {name} is then <r1+c> years old."),
    ),
    Template(
        "leaking_tank",
        "The water tank of {name} holds {a} litres. "
        "Every hour {b} litres run out, and nobody notices it for {c} hours. "
        "How many litres are left in the tank?",
        {"a": (150, 400, 10), "b": (4, 20), "c": (3, 9)},
        ("In {c} hours <b*c> litres run out.", "After that <a-r1> litres are left in the tank."),
    ),
    Template(
        "tickets",
        "For the concert {name} sold {a} tickets to adults at {b} dollars and {c} tickets to children at {d} dollars. "
        "How many dollars did {name} collect?",
        {"a": (5, 25), "b": (8, 20), "c": (5, 25), "d": (2, 7)},
        (
            "The adults paid <a*b> dollars.",
            "The children paid <c*d> dollars.",
            "In total {name} collected <r1+r2> dollars.",
        ),
    ),
    Template(
        "two_speeds",
        "{name} drove {a} miles an hour for {b} hours, and after a rest {c} miles an hour for {d} hours. "
        "How many miles did {name} drive in all?",
        {"a": (30, 70, 5), "b": (2, 5), "c": (30, 70, 5), "d": (2, 5)},
        (
            "Before the rest {name} drove <a*b> miles.",
            "After it {name} drove <c*d> miles.",
            "In all that is <r1+r2> miles.",
        ),
    ),
    Template(
        "share_then_more",
        "{a} {things} are shared equally by {b} children, and one of them is {name}. "
        "Later {name} gets {c} more from {other}. "
        "How many {things} does {name} have now?",
        {"a": (24, 99), "b": (3, 9), "c": (3, 20)},
        ("At first each child gets <a/b> {things}.", "With the ones from {other} {name} has <r1+c> {things} now."),
    ),
    Template(
        "savings_difference",
        "{name} saves {a} dollars a week and {other} saves {b} dollars a week. They both save for {c} weeks. "
        "How many dollars more does {name} have than {other}?",
        {"a": (12, 30), "b": (3, 11), "c": (3, 12)},
        (
            "{name} saves <a*c> dollars.",
            "{other} saves <b*c> dollars.",
            "So {name} has <r1-r2> dollars more than {other}.",
        ),
    ),
    Template(
        "paint_and_brush",
        "One tin of paint costs {a} dollars and one brush costs {c} dollars. "
        "{name} needs {b} tins of paint and one brush. "
        "How many dollars does {name} spend?",
        {"a": (2.5, 9.5, 1), "b": (2, 9), "c": (2, 9)},
        ("The tins of paint cost <a*b> dollars.", "Together with the brush {name} spends <r1+c> dollars."),
        decimals=True,
    ),
    Template(
        "juice_crates",
        "{name} orders {a} crates of juice with {b} bottles in each crate. "
        "One bottle costs {c} dollars with the deposit. "
        "How many dollars does the juice cost?",
        {"a": (2, 9), "b": (6, 12, 2), "c": (1.5, 4.5, 1)},
        ("In the crates there are <a*b> bottles.", "All of these bottles together cost <r1*c> dollars."),
        decimals=True,
    ),
    Template(
        "hens",
        "{name} keeps {a} hens, and every hen lays {b} eggs a week. In {c} weeks none of the eggs is eaten or sold. "
        "How many eggs are there then?",
        {"a": (3, 15), "b": (3, 6), "c": (2, 6)},
        ("In one week the hens lay <a*b> eggs.", "In {c} weeks the hens lay <r1*c> eggs."),
    ),
    Template(
        "parking",
        "At noon there were {a} cars in front of {place}. Until two o'clock {b} cars drove away and {c} new cars came. "
        "How many cars are there at two o'clock?",
        {"a": (30, 99), "b": (5, 28), "c": (5, 40)},
        ("After some had left there were <a-b> cars.", "With the new ones there are <r1+c> cars at two o'clock."),
    ),
    Template(
        "library_shelves",
        "{name} has {a} shelves with {b} books on each. On {day} {c} books are lent out and {d} books come back. "
        "How many books are on the shelves now?",
        {"a": (3, 12), "b": (10, 30), "c": (10, 28), "d": (3, 9)},
        (
            "The shelves held <a*b> books.",
            "After the lending <r1-c> books were there.",
            "With those that came back there are <r2+d> books.",
        ),
    ),
    Template(
        "paper_packs",
        "The teacher {name} has {a} pupils, and each pupil needs {b} sheets of paper. "
        "Paper is sold in packs of {c} sheets. "
        "How many packs does {name} need?",
        {"a": (10, 32), "b": (3, 15), "c": (5, 20, 5)},
        ("The pupils need <a*b> sheets of paper.", "Sold in packs of {c} this makes <r1/c> packs."),
    ),
    Template(
        "cloth_pieces",
        "{name} cuts {a} metres of cloth into pieces of {b} metres and sells every piece for {c} dollars at {place}. "
        "How many dollars does {name} get?",
        {"a": (20, 99), "b": (2, 9), "c": (3, 15)},
        ("From the cloth {name} cuts <a/b> pieces.", "For all the pieces {name} gets <r1*c> dollars."),
    ),
    Template(
        "garden_walk",
        "The garden of {name} is {a} metres long and {b} metres wide. "
        "Every evening {name} walks once around the whole garden. "
        "How many metres is one walk?",
        {"a": (20, 80), "b": (8, 40)},
        ("One long and one short side make <a+b> metres.", "Once around is twice that, <r1*2> metres."),
    ),
    Template(
        "weekly_run",
        "{name} runs {a} miles on each of {b} days of the week, and on {day} {name} runs {c} miles more. "
        "How many miles does {name} run in one week?",
        {"a": (2, 12), "b": (3, 6), "c": (3, 20)},
        ("On the {b} days {name} runs <a*b> miles.", "Together with {day} this is <r1+c> miles."),
    ),
    Template(
        "candles_per_table",
        "{name} has {a} packs with {b} candles in each for a party. "
        "The candles are put on {c} tables, the same number on each. "
        "How many candles stand on one table?",
        {"a": (3, 12), "b": (4, 16), "c": (3, 12)},
        ("The packs hold <a*b> candles in all.", "On each of the {c} tables there are <r1/c> candles."),
    ),
    Template(
        "sold_in_three_days",
        "{name} had {a} {things} to sell. On {day} {b} were sold and on {day2} {c} were sold. "
        "How many {things} does {name} still have to sell?",
        {"a": (70, 150), "b": (5, 30), "c": (5, 30)},
        ("On both days <b+c> {things} were sold.", "Of the {a} {things} {name} still has <a-r1> to sell."),
    ),
    Template(
        "fewer_than_friend",
        "{name} has {a} {things}, and {other} has {b} {things} fewer than {name}. "
        "They sell all of them for {c} dollars each. "
        "How many dollars do they get?",
        {"a": (20, 60), "b": (3, 18), "c": (2, 6)},
        (
            "{other} has <a-b> {things}.",
            "Together they have <a+r1> {things}.",
            "For these they get <r2*c> dollars.",
        ),
    ),
)

TEMPLATES: dict[str, Template] = {
    template.id: template
    for template in (
        *(Template(t.id, t.question, t.numbers, t.steps, t.decimals, trained=True) for t in _TRAINED),
        *_UNSEEN,
    )
}
TRAINED: tuple[str, ...] = tuple(t.id for t in TEMPLATES.values() if t.trained)
UNSEEN: tuple[str, ...] = tuple(t.id for t in TEMPLATES.values() if not t.trained)
