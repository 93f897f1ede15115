"""Wrong arithmetic in a trace: found, recorded, and on request corrected so that the original can be had back.

In: reasoning. Out: `Contradiction`s and, from `correct`, the reasoning with every wrong result replaced by the
calculator's:

    "5*3 = 16 pens. With 4 more she has 16+4 = 20."   ->   "5*3 = 15 pens. With 4 more she has 16+4 = 20."

What comes after a wrong result and was worked out with it is NOT rewritten: "16+4 = 20" is right as it stands, only no
longer about the same number. `later_uses` counts how often the wrong number still stands behind its correction (here
1), so that such rows can be seen, counted and left out. The final answer is not touched. What is wrong may as well be
the expression ("6*2.5 = 18" for 6*3): nobody can tell from the equation alone, which is why "drop" is the default. The
middle of a chain ("2+3 = 6*2 = 12") is result and operand at once and is never taken for a contradiction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from agentflow.insertion.equations import Equation, find_equations
from agentflow.insertion.tokens import tokenise
from agentflow.insertion.values import value_of
from agentflow.tools.calculator import format_number

MAX_CORRECTIONS = 20
# A trace with more wrong results is not worth saving.
_SEPARATOR = re.compile(r"\{,\}|\\,|[, \u00a0\u2009\u202f]")
_NOTATION = re.compile(
    rf"""-?(?P<currency>\s*(?:\\?[$€£₹¥])?\s*)(?P<whole>[0-9]+(?:(?:{_SEPARATOR.pattern})[0-9]{{3}})*|(?=\.))
         (?:\.(?P<decimals>[0-9]+))?(?P<percent>\s?\\?%|\ percent|)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Contradiction:
    """One equation whose stated result the calculator contradicts (columns of `schemas.CONTRADICTION`)."""

    at: int
    # Offset of the stated result in the reasoning as it now is.
    expression: str
    stated: str
    # As it was written.
    computed: str
    # The calculator's result in the same notation, where that can hold it, else as a plain number; "" where it refuses.
    action: Literal["kept", "corrected"]
    later_uses: int
    # Times the wrong number stands in the text behind.

    def to_row(self) -> dict[str, Any]:
        """As a struct of `schemas.CONTRADICTION`."""
        return asdict(self)


def contradictions(text: str, equations: Sequence[Equation]) -> list[Contradiction]:
    """Every equation of `text` that does not agree, as it stands ("kept")."""
    return [_contradiction(text, equation, "kept") for equation in equations if not equation.agrees]


def correct(text: str) -> tuple[str, list[Contradiction]] | None:
    r"""`text` with right results, and what was changed, left to right; None where that cannot be done.

    It cannot where the calculator refuses an expression, where the notation of a result cannot hold the right one
    ("7 1/2", "1.5e3", `\frac{1}{2}`), where a result is still wrong after its correction, or where there are more than
    MAX_CORRECTIONS.
    """
    changed: list[Contradiction] = []
    done = 0
    while (wrong := next((one for one in find_equations(text) if not one.agrees), None)) is not None:
        if wrong.computed is None or wrong.insert_at < done or len(changed) == MAX_CORRECTIONS:
            return None
        if _as_stated(wrong.computed, wrong.stated) is None:
            return None
        found = _contradiction(text, wrong, "corrected")
        text = text[: found.at] + found.computed + text[wrong.end :]
        done = found.at + len(found.computed)
        changed.append(found)
    return text, changed


def undo(text: str, changed: Sequence[Contradiction]) -> str:
    """The text as it was before `correct`, byte for byte."""
    for one in reversed(changed):
        if one.action == "corrected":
            text = text[: one.at] + one.stated + text[one.at + len(one.computed) :]
    return text


def moved(at: int, changed: Sequence[Contradiction]) -> int | None:
    """Where offset `at` of the text before `correct` is in the text after it; None within a replaced number."""
    shift = 0
    for one in changed:
        if one.action != "corrected" or at + shift <= one.at:
            continue
        if at + shift < one.at + len(one.stated):
            return None
        shift += len(one.computed) - len(one.stated)
    return at + shift


def _contradiction(text: str, equation: Equation, action: Literal["kept", "corrected"]) -> Contradiction:
    value = equation.computed
    return Contradiction(
        at=equation.end - len(equation.stated),
        expression=equation.expression,
        stated=equation.stated,
        computed="" if value is None else _as_stated(value, equation.stated) or format_number(value),
        action=action,
        later_uses=_uses(text[equation.end :], equation.stated_value),
    )


def _as_stated(value: Fraction, stated: str) -> str | None:
    """`value` in the notation of `stated`: currency and percent signs, thousands separators, decimals where needed.

    None where that notation is no decimal number's.
    """
    notation = _NOTATION.fullmatch(stated)
    if notation is None:
        return None
    scaled = abs(value) * (100 if notation["percent"] else 1)
    decimals = max(2, len(notation["decimals"] or ""))
    digits = format_number(scaled)
    if len(digits.partition(".")[2]) > decimals:
        digits = format_number(Fraction(round(scaled * 10**decimals), 10**decimals))
    whole, point, rest = digits.partition(".")
    separator = _SEPARATOR.search(notation["whole"])
    if separator:
        whole = f"{int(whole):,}".replace(",", separator.group())
    sign = "-" if value < 0 and digits != "0" else ""
    return f"{sign}{notation['currency']}{whole}{point}{rest}{notation['percent']}"


def _uses(text: str, value: Fraction) -> int:
    # A number that the calculator refuses (1/0, above its bounds) is no use of one that it took.
    return sum(token.kind == "number" and value_of(token.text) == abs(value) for token in tokenise(text))
