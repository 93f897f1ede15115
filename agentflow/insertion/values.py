"""Values: what a left-hand side comes to, and whether that is the result which the text states.

In: tokens of a left-hand side and the stated number. Out: calculator text, its exact value, and the verdict. It knows
neither how either was found in the text nor what is done about a wrong result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from fractions import Fraction

from agentflow.errors import ToolArgumentError
from agentflow.insertion.tokens import Token
from agentflow.tools.calculator import evaluate


class Demand(IntEnum):
    """What a reading must come to so that it counts as an equation."""

    NOTHING = 0
    # It is one, right or wrong.
    AGREES = 1
    # Something was read away or may belong to it: only if both sides are equal within rounding.
    EXACT = 2
    # It is a part of what was written: only if both sides are equal.


@dataclass(frozen=True)
class Stated:
    """The number that a text states."""

    value: Fraction
    decimals: int | None
    # Printed decimals, which bound the rounding; None for fractions: they are exact.
    percent: bool


@dataclass(frozen=True)
class Computed:
    """A left-hand side as the calculator takes it."""

    expression: str
    value: Fraction | None
    # None if the calculator refuses it.
    agrees: bool
    # With what is stated, within rounding.
    arguable: bool
    # Not that, but people do write what is stated: without its remainder, or in a notation that was read otherwise.


def value_of(expression: str) -> Fraction | None:
    """The exact value of `expression`; None if the calculator refuses it (1/0, numbers out of bounds)."""
    try:
        return evaluate(expression)
    except ToolArgumentError:
        return None


def compute(side: list[Token], stated: Stated) -> Computed:
    """The value of `side`, its percent signs read in the way that fits; if none does, in the most usual one.

    "25% of 80 = 20" needs 25/100, "100% - 25% = 75%" plain numbers, "10/50 = 20%" a factor of 100, and
    "$200 - 15% = $170" takes 15 % off.
    """
    plain, change = _join(side, percent=True), _change(side)
    variants = [plain]
    if stated.percent or any(token.percent for token in side):
        variants.append(_join(side, percent=False))
    if stated.percent:
        variants.append(f"({plain})*100")
    if change:
        variants.append(change)
    values = [(expression, value_of(expression)) for expression in variants]
    for expression, value in values:
        if value is not None and agrees(value, stated):
            return Computed(expression, value, agrees=True, arguable=False)
    expression, value = values[-1 if change else 0]
    divided = any("/" in expression for expression in variants)
    arguable = divided and any(value is not None and _is_cut_off(value, stated) for _, value in values)
    arguable = arguable or (not change and _has_loose_percent(side)) or _agrees_with_points(side, stated)
    return Computed(expression, value, agrees=False, arguable=arguable)


def agrees(value: Fraction, stated: Stated) -> bool:
    """Whether `value` is what is stated, rounded; with two decimals or more also cut off ("66.66" for 66.666…)."""
    difference = abs(value - stated.value)
    if not difference or stated.decimals is None:
        return not difference
    unit = Fraction(1, 10**stated.decimals)
    return difference < unit if stated.decimals >= 2 else difference <= unit / 2


def _is_cut_off(value: Fraction, stated: Stated) -> bool:
    """ "1000/7 = 142.8", "17/3 = 5", and upwards only to whole numbers: "50/8 = 7 boxes"."""
    if stated.decimals is None:
        return False
    unit = Fraction(1, 10**stated.decimals)
    missing = abs(value) - abs(stated.value)
    return value * stated.value >= 0 and -(unit if unit == 1 else 0) < missing < unit


def _change(side: list[Token]) -> str:
    """ "200 - 15%" as 200 less 15 % of it, "80 + 10% - 5%" one after the other; "" if `side` does not end like that."""
    if len(side) < 3:
        return ""
    *amount, operator, change = side
    if not change.percent or operator.text not in ("+", "-") or amount[-1].kind not in ("number", "close"):
        return ""
    if all(token.percent for token in amount if token.kind == "number"):
        return ""
    before = _change(amount) or _join(amount, percent=True)
    return f"{before if len(amount) == 1 else f'({before})'}*(1{operator.text}{change.text}/100)"


def _has_loose_percent(side: list[Token]) -> bool:
    """ "(200 - 15%) * 2": of what the 15 % are, is not worked out here."""
    return any(
        token.percent and before.text in ("+", "-") and not first.percent and after.text not in ("*", "/")
        for first, before, token, after in zip(side, side[1:], side[2:], [*side[3:], side[0]], strict=False)
    )


def _agrees_with_points(side: list[Token], stated: Stated) -> bool:
    """ "1.000 + 500 = 1.500": points between thousands."""
    whole = [replace(one, text=one.text.replace(".", "")) if one.decimals == 3 else one for one in side]
    if whole == side:
        return False
    value = value_of(_join(whole, percent=True))
    return value is not None and value == stated.value * (1000 if stated.decimals == 3 else 1)


def _join(side: list[Token], percent: bool) -> str:
    pieces: list[str] = []
    for index, token in enumerate(side):
        text, compound = token.text, token.compound
        if token.percent and percent:
            text, compound = f"{text}/100", True
        before = side[index - 1].text if index else ""
        after = side[index + 1].text if index + 1 < len(side) else ""
        if compound and (before in ("*", "/", "**", "-") or after == "**" or ("+" in text and after in ("*", "/"))):
            text = f"({text})"
        pieces.append(text)
    return "".join(pieces)
