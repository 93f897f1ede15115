"""Finds worked arithmetic in reasoning: text in, equations and the places where a calculator call belongs out.

    "She sold 48/2 = 24 clips."  ->  expression "48/2", call after "=", stated 24, agrees

Understands currency, thousands separators, percentages ("25% of 80 = 20"), fractions, units on operands
("3 boxes * 4 pens = 12 pens"), x and × as times, chains ("2+3*4 = 2+12 = 14"), simple LaTeX and GSM8K's `<<…>>`.
Dates, ranges, ratios and assignments without an operator are no equations. What was read in part (`left_sides`,
`results`) is one only if it is right. Nothing is changed and nothing is run but the project's own calculator. A stated
result that is wrong is reported with `agrees` False, not repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from agentflow.insertion.left_sides import LeftSide, left_sides
from agentflow.insertion.results import Result, results
from agentflow.insertion.tokens import Token, tokenise
from agentflow.insertion.units import are_plain
from agentflow.insertion.values import Computed, Demand, compute

_SAYS_EQUAL = frozenset({"is", "equals", "gives", "makes"})
# "48 divided by 2 is 24": such a word joins two sides, but only where they are in fact equal.
_ABOUT_EQUAL = frozenset({"≈", "\\approx"})
# "48 × 52 ≈ 2500" is no mistake.


@dataclass(frozen=True)
class Equation:
    """One equation of a text; offsets in characters."""

    expression: str
    # Left-hand side as the calculator takes it.
    start: int
    # First character of the left-hand side.
    end: int
    # End of the stated result, percent sign included.
    insert_at: int
    # Right behind the equals sign: where the call is spliced.
    stated: str
    # The result as printed, without currency.
    stated_value: Fraction
    computed: Fraction | None
    # Exact value of `expression`; None if the calculator refuses it.
    agrees: bool
    # Whether `computed` is `stated_value` within the rounding of its printed decimals.


def find_equations(text: str) -> list[Equation]:
    """All equations of `text` in order of their equals signs. Total; time is linear in the length of the text."""
    return list(_equations(text, tokenise(text)))


def _equations(text: str, tokens: list[Token]) -> Iterator[Equation]:
    for index, token in enumerate(tokens):
        in_words = token.kind == "word" and token.text in _SAYS_EQUAL
        if token.kind != "equals" and not in_words:
            continue
        demand = Demand.AGREES if in_words or token.text in _ABOUT_EQUAL else Demand.NOTHING
        right = results(text, tokens, index + 1, demand)
        left = left_sides(text, tokens, index) if right else []
        equation = _first_that_fits(text, token.end, left, right)
        if equation is not None:
            yield equation


def _first_that_fits(text: str, insert_at: int, left: list[LeftSide], right: list[Result]) -> Equation | None:
    for side in left:
        for result in right:
            found = compute(side.tokens, result.stated)
            if _counts(side, result, found):
                return Equation(
                    expression=found.expression,
                    start=side.tokens[0].start,
                    end=result.end,
                    insert_at=insert_at,
                    stated=text[result.start : result.end],
                    stated_value=result.stated.value,
                    computed=found.value,
                    agrees=found.agrees,
                )
    return None


def _counts(side: LeftSide, result: Result, found: Computed) -> bool:
    """Whether this is an equation: one that is right, or one that leaves no other way to take it than as wrong."""
    demand = max(side.demand, result.demand)
    if found.agrees:
        return demand is not Demand.EXACT or found.value == result.stated.value
    if result.demand or (side.demand and not _is_plain(side, result)) or found.arguable:
        return False
    words = [word for units in side.units for word in units]
    return found.value is None or not result.converts(found.value, words)


def _is_plain(side: LeftSide, result: Result) -> bool:
    """Whether only units were read away, and such that a wrong result is wrong with them too."""
    operators = [token.text for token in side.tokens if token.kind == "operator"]
    return side.alone and are_plain(operators, side.units, result.units)
