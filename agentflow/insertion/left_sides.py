"""The left-hand side: readings of what stands before an equals sign, right to left.

    "at $3 a pen she paid 5 pens * $3 = "  ->  5*3, units dropped

A reading is the longest run of operands and operators that is a whole expression. Whether it is also the whole of what
was written depends on what stopped it: a name, a root, half of a clock time or "half of" before it make it a part.
Such a reading counts only if it comes to the stated result, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentflow.insertion.tokens import Token
from agentflow.insertion.units import NO_UNITS
from agentflow.insertion.values import Demand

MAX_TOKENS = 200
# Longest left-hand side looked at, units included.
MAX_UNIT_WORDS = 8
MAX_SHORTER = 2
# Shorter readings tried where the longest is not the equation: each costs an evaluation.

_WINDOW = 60
# Characters before a reading that are looked at.
_PART_OF_A_TERM = re.compile(r"(?:[√∛∜_⌊⌈|]|(?<![^\W\d_])[^\W\d_])\{?\Z")
# "√16 + 2", "a_1 + 3", "T1 - 2", "f(3) + 2": the first operand is something else.
_PART_OF_A_NAME = re.compile(r"(?:[^\W_]|[0-9]:)\Z")
# "sqrt(9) + 2", "Rs20 + 5", "2:30 + 45"; "Day 2:50*2" looks the same.
_GLUED = re.compile(r"[^\s,;:(\[{*$€£₹¥\"'“‘=&}]\Z")
_ACTS_ON_IT = re.compile(
    r"""(?:\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?|per\s?cent|roots?|squares?|cubes?
          |power|multiples?|log\w*|factorial|floor|ceiling|average|mean|median|product|remainder|rest|groups?|sets?)
          \s+of(?:\s+the)?
      | \b(?:half|twice|thrice|double|triple|root|sqrt|cbrt|log|ln|exp|sin|cos|tan|abs|max|min|gcd|lcm|mod|floor|ceil
          |round|negative|minus|less|than|not|isn['’]t|about|around|approximately|roughly|nearly|almost)
      | [0-9]%?\s*(?:choose|off|ft|feet|foot|lbs?|pounds?|h|hrs?|hours?|min(?:ute)?s?|dollars?|dozen|hundred|thousand
          |million|billion)(?:\s+and)?
      | \badd\w*\b[^.;\n=]{0,30}\bto | \b(?:subtract|tak|remov|deduct)\w*\b[^.;\n=]{0,30}\bfrom
      | [0-9][^.;\n=]{0,20}\b(?:increas|decreas|reduc|multipli|divid)ed\s+by
      | \b(?:sum|difference|product|quotient|average|mean|ratio|between)\b[^.;:\n=]{0,40}\band)[ ]+[$€£¥₹]?\Z""",
    re.VERBOSE | re.IGNORECASE,
)
# "half of 12 + 1", "5 more than 3*4", "the sum of 5 and 3*4".
_LABEL = re.compile(
    r"""(?:\#|\b(?:day|step|week|month|year|hour|age|page|p|pp|chapter|verse|row|line|grade|level|round|stage|phase|part
          |question|problem|exercise|example|item|option|case|method|no|nr|number|figure|table|section|trip|team
          |group|player|box|store|house|room|from|between)s?\.?)\s*\Z""",
    re.VERBOSE | re.IGNORECASE,
)
# "Day 1 - 3*4", "pages 10-20": the dash is none of arithmetic.


@dataclass(frozen=True)
class LeftSide:
    """A reading of the left-hand side."""

    tokens: list[Token]
    # Operands, operators and parentheses, units dropped, left to right.
    demand: Demand
    units: tuple[tuple[str, ...], ...]
    # Of the operands, left to right, where they were dropped.
    alone: bool
    # Nothing else than units is against taking it at its word: it is all that was written, without parentheses.


def left_sides(text: str, tokens: Sequence[Token], index: int) -> list[LeftSide]:
    """Readings of what stands before the equals sign at `index`, longest first; each holds an operator."""
    reader = _Reader()
    stop: Token | None = None
    for place in range(index - 1, max(-1, index - 1 - MAX_TOKENS), -1):
        if not reader.take(tokens[place]):
            stop = tokens[place]
            before = tokens[place - 1] if place else None
            return reader.readings(text, stop, before)
    return reader.readings(text, None, None) if index <= MAX_TOKENS else []


def _left_side(tokens: list[Token], units: tuple[tuple[str, ...], ...], demand: Demand) -> LeftSide:
    ambiguous = any(token.ambiguous for token in tokens)
    alone = not (demand or ambiguous or any(token.kind == "open" for token in tokens))
    return LeftSide(tokens, max(demand, Demand(ambiguous or any(units))), units, alone)


class _Reader:
    """Reads tokens from right to left and remembers where what it has read is a whole expression."""

    def __init__(self) -> None:
        self._read: list[Token] = []
        # Right to left.
        self._whole: list[tuple[int, int]] = []
        # (tokens read, operands among them) at every point where the expression is complete.
        self._needs_operand = True
        # Whether an operand must come next (leftwards).
        self._depth = 0
        self._words = 0
        # Unit words since the last operator.
        self._units: list[tuple[str, ...]] = []
        # Of each operand, right to left.
        self._pending: tuple[str, ...] = ()
        self._start = 0
        # Of what was read, currency signs included.

    def take(self, token: Token) -> bool:
        """Whether `token` continues the expression to the left."""
        taken = self._take(token)
        if taken:
            self._start = token.start
        return taken

    def _take(self, token: Token) -> bool:
        if token.kind in ("annotation", "prefix"):
            return True
        if token.kind in ("operator", "open") and self._needs_operand and self._last_is_sign():
            self._needs_operand = False
        match token.kind:
            case "word":
                return self._take_unit(token)
            case "operator" if self._needs_operand:
                # "2 hours/day": the slash is part of the unit.
                return bool(self._words) and token.text == "/"
            case "operator":
                return self._push(token, needs_operand=True)
            case "number" if self._needs_operand or self._is_factor(token):
                return self._push(token, needs_operand=False)
            case "close" if self._needs_operand or self._is_factor(token):
                self._depth += 1
                return self._push(token, needs_operand=True)
            case "open" if not self._needs_operand and self._depth:
                self._depth -= 1
                return self._push(token, needs_operand=False)
        return False

    def _take_unit(self, token: Token) -> bool:
        self._words += 1
        self._pending = (token.text, *self._pending)
        return self._needs_operand and token.text not in NO_UNITS and self._words <= MAX_UNIT_WORDS

    def _is_factor(self, token: Token) -> bool:
        """ "2(3+4)": an operand directly before a parenthesis is multiplied with it."""
        if not self._read or self._read[-1].kind != "open" or self._read[-1].start != token.end:
            return False
        self._read.append(Token("operator", token.end, token.end, "*"))
        return True

    def _last_is_sign(self) -> bool:
        """Whether the operator read last is the sign of a number: "3 * -2", "(-5 + 3)"."""
        if self._words or len(self._read) < 2 or self._read[-1].text != "-":
            return False
        return self._read[-1].end == self._read[-2].start

    def _push(self, token: Token, needs_operand: bool) -> bool:
        self._read.append(token)
        self._needs_operand, self._words = needs_operand, 0
        if token.kind == "number" or self._pending:
            self._units.append(self._pending)
            self._pending = ()
        if not needs_operand and not self._depth:
            self._whole.append((len(self._read), len(self._units)))
        return True

    def readings(self, text: str, stop: Token | None, before: Token | None) -> list[LeftSide]:
        """Complete expressions with an operator, longest first.

        `stop` is the token that was not taken (None at the start of the text), `before` the one before it.
        """
        if self._needs_operand and self._last_is_sign() and not self._depth:
            self._whole.append((len(self._read), len(self._units)))
        if not self._whole or (self._needs_operand and stop is not None and stop.kind == "unknown"):
            return []  # "x/2 + 1/2": algebra.
        sides = []
        for length, operands in reversed(self._whole[-1 - MAX_SHORTER :]):
            everything = length == len(self._read)
            demand = self._context(text, stop, before) if everything else self._as_part(length, stop)
            if demand is None and everything:
                return []
            if demand is not None and any(token.kind == "operator" or token.compound for token in self._read[:length]):
                sides.append(_left_side(self._read[:length][::-1], tuple(self._units[:operands][::-1]), demand))
        return sides

    def _as_part(self, length: int, stop: Token | None) -> Demand | None:
        """What is demanded of a reading with something before it; None if it can be no equation."""
        operator = self._read[length]
        on_nothing = (
            stop is None or stop.text == "\n" or (stop.kind in ("stop", "equals") and stop.end < operator.start)
        )
        if on_nothing and operator.text != "/" and length + 1 == len(self._read) and self._needs_operand:
            return Demand.AGREES  # A bullet or Markdown: "- 5*3 = 15".
        return Demand.EXACT if operator.text in ("+", "-") else None

    def _context(self, text: str, stop: Token | None, before: Token | None) -> Demand | None:
        """What is demanded of the longest reading, by what stands before it; None if it can be no equation."""
        start = self._start
        ahead = text[max(0, start - _WINDOW) : start]
        if _PART_OF_A_TERM.search(ahead):
            return None
        if _PART_OF_A_NAME.search(ahead):
            return Demand.EXACT
        if (
            stop is not None
            and stop.kind == "open"
            and before is not None
            and (before.kind in ("operator", "number") or before.end == stop.start)
        ):
            return Demand.EXACT  # A parenthesis that is never closed.
        first_operator = next((token.text for token in reversed(self._read) if token.kind == "operator"), "")
        if first_operator == "-" and _LABEL.search(ahead):
            return Demand.EXACT
        return Demand(bool(_GLUED.search(ahead) or _ACTS_ON_IT.search(ahead) or self._is_range()))

    def _is_range(self) -> bool:
        """ "9-5", "1990-2000" without spaces and rising."""
        if [token.kind for token in self._read] != ["number", "operator", "number"] or self._read[1].text != "-":
            return False
        last, dash, first = self._read
        rises = first.text.isdigit() and last.text.isdigit() and int(first.text[:9]) < int(last.text[:9])
        return rises and first.end == dash.start and dash.end == last.start
