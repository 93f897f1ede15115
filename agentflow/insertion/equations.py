"""Finds worked arithmetic in reasoning: text in, equations and the places where a calculator call belongs out.

    "She sold 48/2 = 24 clips."  ->  expression "48/2", call after "=", stated 24, agrees

Understands currency, thousands separators, percentages ("25% of 80 = 20"), fractions, units on operands
("3 boxes * 4 pens = 12 pens"), x and × as times, chains ("2+3*4 = 2+12 = 14"), simple LaTeX and GSM8K's `<<…>>`.
Dates, ranges, ratios and assignments without an operator are no equations. Nothing is changed and nothing is run but
the project's own calculator. A stated result that is wrong is reported with `agrees` False, not repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from agentflow.errors import ToolArgumentError
from agentflow.insertion.tokens import Token, tokenise
from agentflow.tools.calculator import evaluate

MAX_TOKENS = 200
# Longest left-hand side looked at, units included.
MAX_UNIT_WORDS = 8
# Words that may follow an operand as its unit.
_NO_UNITS = frozenset(
    {"is", "are", "was", "were", "has", "have", "had", "he", "she", "they", "it", "we", "i", "there"}
    | {"and", "so", "then", "that", "which", "but", "because", "if", "when", "for", "thus", "therefore", "by"}
    | {"gives", "equals", "means", "makes", "costs", "cost"}
)
# Words that end a phrase rather than name a unit: a number before them belongs to the sentence, not to the equation.
_SAYS_EQUAL = frozenset({"is", "equals", "gives", "makes"})
# "48 divided by 2 is 24": such a word joins two sides, but only where they are in fact equal.


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


@dataclass(frozen=True)
class _Result:
    """A reading of the right-hand side."""

    value: Fraction
    start: int
    end: int
    decimals: int | None
    # Printed decimals, which bound the rounding; None for fractions: they are exact.
    percent: bool
    must_agree: bool
    # More operands follow: this reading counts only if it is right.


@dataclass(frozen=True)
class _LeftSide:
    """A reading of the left-hand side."""

    tokens: list[Token]
    # Operands, operators and parentheses, units dropped, left to right.
    must_agree: bool
    # Something was read away (units, a leading term): this reading counts only if it is right.


def find_equations(text: str) -> list[Equation]:
    """All equations of `text` in order of their equals signs. Total; time is linear in the length of the text."""
    return list(_equations(text, tokenise(text)))


def _equations(text: str, tokens: list[Token]) -> Iterator[Equation]:
    for index, token in enumerate(tokens):
        in_words = token.kind == "word" and token.text in _SAYS_EQUAL
        if token.kind != "equals" and not in_words:
            continue
        results = _results(tokens, index + 1, must_agree=in_words)
        sides = _left_sides(tokens, index) if results else []
        equation = _first_that_fits(text, token.end, sides, results)
        if equation is not None:
            yield equation


def _first_that_fits(text: str, insert_at: int, sides: list[_LeftSide], results: list[_Result]) -> Equation | None:
    for side in sides:
        for result in results:
            expression, computed, agrees = _expression(side.tokens, result)
            if agrees or not (side.must_agree or result.must_agree):
                return Equation(
                    expression=expression,
                    start=side.tokens[0].start,
                    end=result.end,
                    insert_at=insert_at,
                    stated=text[result.start : result.end],
                    stated_value=result.value,
                    computed=computed,
                    agrees=agrees,
                )
    return None


# ---------------------------------------------------------------- right-hand side
def _results(tokens: list[Token], index: int, must_agree: bool) -> list[_Result]:
    """Readings of what stands behind an equals sign, past currency signs and annotations; [] if it is no number."""
    sign, sign_start = 1, None
    while index < len(tokens) and (tokens[index].kind in ("prefix", "annotation") or _is_sign(tokens, index)):
        if tokens[index].kind == "operator":
            sign, sign_start = -1, tokens[index].start
        index += 1
    if index >= len(tokens) or tokens[index].kind != "number":
        return []
    token = tokens[index]
    start = token.start if sign_start is None else sign_start
    decimals = None if token.compound else token.decimals
    value = value_of(token.text)
    if value is None:
        return []
    must_agree = must_agree or _operand_follows(tokens, index + 1)
    number = _Result(sign * value, start, token.end, decimals, token.percent, must_agree)
    fraction = _fraction(tokens, index)
    if fraction is None:
        return [number]
    # "= 5/6" is a fraction if that is right; otherwise 5 was the result and the text goes on.
    return [_Result(sign * fraction, start, tokens[index + 2].end, None, False, must_agree=True), number]


def _is_sign(tokens: list[Token], index: int) -> bool:
    token, following = tokens[index], tokens[index + 1 : index + 2]
    return token.kind == "operator" and token.text == "-" and bool(following) and following[0].start == token.end


def _fraction(tokens: list[Token], index: int) -> Fraction | None:
    """a/b without spaces, if the three tokens at `index` are that."""
    three = tokens[index : index + 3]
    if [token.kind for token in three] != ["number", "operator", "number"] or three[1].text != "/":
        return None
    if three[0].end != three[1].start or three[1].end != three[2].start:
        return None
    return value_of("/".join((three[0].text, three[2].text)))


def _operand_follows(tokens: list[Token], index: int) -> bool:
    """Whether an operator and an operand come next, with units of the number in between."""
    while index < len(tokens) and tokens[index].kind == "word" and tokens[index].text not in _NO_UNITS:
        index += 1
    if index + 1 >= len(tokens) or tokens[index].kind != "operator":
        return False
    return tokens[index + 1].kind in ("number", "prefix", "open")


# ---------------------------------------------------------------- left-hand side
def _left_sides(tokens: list[Token], index: int) -> list[_LeftSide]:
    """Readings of what stands before the equals sign at `index`, longest first; each holds an operator."""
    reader = _LeftReader()
    for token in reversed(tokens[max(0, index - MAX_TOKENS) : index]):
        if not reader.take(token):
            break
    return reader.readings()


class _LeftReader:
    """Reads tokens from right to left and remembers where what it has read is a whole expression."""

    def __init__(self) -> None:
        self._read: list[Token] = []
        # Right to left.
        self._whole: list[tuple[int, bool]] = []
        # (tokens read, whether units were dropped) at every point where the expression is complete.
        self._needs_operand = True
        # Whether an operand must come next (leftwards).
        self._depth = 0
        self._words = 0
        # Unit words since the last operator.
        self._units = False

    def take(self, token: Token) -> bool:
        """Whether `token` continues the expression to the left."""
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
        self._units = True
        return self._needs_operand and token.text not in _NO_UNITS and self._words <= MAX_UNIT_WORDS

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
        if not needs_operand and not self._depth:
            self._whole.append((len(self._read), self._units))
        return True

    def readings(self) -> list[_LeftSide]:
        """Complete expressions with an operator, longest first. A shorter one counts only if it is right."""
        if self._needs_operand and self._last_is_sign() and not self._depth:
            self._whole.append((len(self._read), self._units))
        # "M + 4 + 2": what was read hangs on something that is no number.
        hanging = not self._whole or self._whole[-1][0] < len(self._read)
        return [
            _LeftSide(self._read[:length][::-1], must_agree=units or hanging or rank > 0)
            for rank, (length, units) in enumerate(reversed(self._whole))
            if any(token.kind == "operator" or token.compound for token in self._read[:length])
        ]


# ---------------------------------------------------------------- expression and value
def _expression(side: list[Token], result: _Result) -> tuple[str, Fraction | None, bool]:
    """(expression, its value, whether that is the stated one): of the ways to read percent signs, the one that fits.

    "25% of 80 = 20" needs 25/100, "100% - 25% = 75%" plain numbers, "10/50 = 20%" a factor of 100.
    """
    plain = _join(side, percent=True)
    variants = [plain]
    if result.percent or any(token.percent for token in side):
        variants.append(_join(side, percent=False))
    if result.percent:
        variants.append(f"({plain})*100")
    for expression in variants:
        value = value_of(expression)
        if value is not None and _agrees(value, result):
            return expression, value, True
    return plain, value_of(plain), False


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


def value_of(expression: str) -> Fraction | None:
    """The exact value of `expression`; None if the calculator refuses it (1/0, numbers out of bounds)."""
    try:
        return evaluate(expression)
    except ToolArgumentError:
        return None


def _agrees(value: Fraction, result: _Result) -> bool:
    difference = abs(value - result.value)
    if not difference or result.decimals is None:
        return not difference
    unit = Fraction(1, 10**result.decimals)
    # Rounded either way; with two decimals or more people also cut off ("66.66" for 66.666…).
    return difference < unit if result.decimals >= 2 else difference <= unit / 2
