"""The right-hand side: readings of the number behind an equals sign, and what its surroundings make of it.

    "= 24 clips"  ->  24, unit "clips"          "= 5/6"  ->  5/6 or 5          "= $6K", "= 41?", "= 3:15"  ->  if right

What stands behind a number may change it: a magnitude, a second unit, a remainder, a power, a question mark. Such a
result counts only if it is right as it stands: nothing is called wrong that was read in part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from agentflow.insertion.tokens import Token
from agentflow.insertion.units import NO_UNITS, is_conversion
from agentflow.insertion.values import Demand, Stated, agrees, value_of

_SMALL_UNITS = (
    r"(?:min(?:ute)?|sec(?:ond)?|inche?|in|cent|ounce|oz|gram|g|day|hour|hr|week|month|cm|mm|m|ml)s?"
    r"|left|over|remain\w*"
)
_NOT_A_UNIT = "after|for|in|every|each|per|within|over|from|by|at|to|than|of"
_WINDOW = 60
# Characters behind a result that are looked at.
_CHANGES_IT = re.compile(
    rf"""\.\.\. | … | \s?\\[lc]?dots | [⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ!^√π] | [:_][0-9{{]
      | \s*\\?(?:√|π|\\(?:sqrt|pi|pm|[bp]?mod)(?![A-Za-z]))
      | (?-i:(?![gmlsh]\b))[^\W\d_](?![^\W_])
      | \s*\(?(?:in\ )?(?:binary|base|octal|hex)\b | \s?r\s?[0-9]
      | [\s~({{-]* (?:\\text\{{\s*)? (?:
            hundreds?|thousands?|k|mn|millions?|bn|b|billions?|tn|trillions?|dozens?|lakhs?|crores?|grand|score
          | per\ ?cent|percentage|pct | r|rem|remainders? | mod|modulo | [ap]\.?m\b\.? | o['’]clock
          | full|whole|complete|entire | (?:and\ )(?:an?\ |one[\ -])?(?:half|third|quarter|fifth)s?
          | (?:is|was|would\ be|looks|seems)\ (?:wrong|incorrect|false|not) )(?![^\W_])
      | [\s-]*(?!(?:{_NOT_A_UNIT})\b)[^\W\d_]+,?\s+(?:and\s+)?[0-9]+\s*(?:{_SMALL_UNITS})(?![^\W_])
      | [^.;\n=]{{0,30}}\b(?:round(?:ed|ing|\ it|\ up|\ down)|remainder)\b
      | [^.,;\n=]{{0,30}}\?""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Result:
    """A reading of the right-hand side."""

    stated: Stated
    start: int
    end: int
    demand: Demand
    units: tuple[str, ...]
    # Words behind the number, or "dollar" for a currency sign before it.

    def converts(self, value: Fraction, units: Sequence[str]) -> bool:
        """Whether `value` is what is stated, in another unit than this one or one of `units`, those of the operands.

        "45 + 15 = 1 hour", "$0.50 * 2 = 100 cents", "30 miles/hour * 20 minutes = 10 miles".
        """
        stated = self.stated if self.stated.decimals else replace(self.stated, decimals=None)
        return any(is_conversion(one, value, lambda other: agrees(other, stated)) for one in (*self.units, *units))


def results(text: str, tokens: Sequence[Token], index: int, demand: Demand) -> list[Result]:
    """Readings of what begins at `index`, past currency signs and annotations; [] if it is no number."""
    sign, sign_start, currency = 1, None, False
    while index < len(tokens) and (tokens[index].kind in ("prefix", "annotation") or _is_sign(tokens, index)):
        if tokens[index].kind == "operator":
            sign, sign_start = -1, tokens[index].start
        currency = currency or tokens[index].text[-1:] in "$€£₹¥"
        index += 1
    if index >= len(tokens) or tokens[index].kind != "number":
        return []
    token = tokens[index]
    start = token.start if sign_start is None else sign_start
    value = value_of(token.text)
    if value is None:
        return []
    units = ("dollar",) * currency + _words(tokens, index + 1)
    stated = Stated(sign * value, None if token.compound else token.decimals, token.percent)
    demand = max(demand, Demand(token.ambiguous or _operand_follows(tokens, index + 1)))
    if _CHANGES_IT.match(text, token.end, token.end + _WINDOW):
        # "10/4 = 2 R 2" is no rounding.
        demand = max(demand, Demand.AGREES if stated.decimals else Demand.EXACT)
    number = Result(stated, start, token.end, demand, units)
    if token.ambiguous:
        # "= 12 200-page books"
        first = text[token.start : token.end].split()[0]
        return [number, Result(Stated(sign * Fraction(first), 0, False), start, token.start + len(first), demand, ())]
    fraction = _fraction(tokens, index)
    if fraction is None:
        return [number]
    # "= 5/6" is a fraction if that is right; otherwise 5 was the result and the text goes on.
    whole = Stated(sign * fraction, None, False)
    return [Result(whole, start, tokens[index + 2].end, max(demand, Demand.AGREES), units), number]


def _is_sign(tokens: Sequence[Token], index: int) -> bool:
    token, following = tokens[index], tokens[index + 1 : index + 2]
    return token.kind == "operator" and token.text == "-" and bool(following) and following[0].start == token.end


def _fraction(tokens: Sequence[Token], index: int) -> Fraction | None:
    """a/b without spaces, if the three tokens at `index` are that."""
    three = tokens[index : index + 3]
    if [token.kind for token in three] != ["number", "operator", "number"] or three[1].text != "/":
        return None
    if three[0].end != three[1].start or three[1].end != three[2].start:
        return None
    return value_of("/".join((three[0].text, three[2].text)))


def _words(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
    """The first words at `index` that may be a unit, past Markdown."""
    while index < len(tokens) and tokens[index].kind in ("prefix", "annotation"):
        index += 1
    words: list[str] = []
    for token in tokens[index : index + 2]:
        if token.kind != "word" or token.text in NO_UNITS:
            break
        words.append(token.text)
    return tuple(words)


def _operand_follows(tokens: Sequence[Token], index: int) -> bool:
    """Whether an operator and an operand come next, with units of the number in between."""
    while index < len(tokens) and (
        tokens[index].kind == "prefix" or (tokens[index].kind == "word" and tokens[index].text not in NO_UNITS)
    ):
        index += 1
    if index + 1 >= len(tokens) or tokens[index].kind != "operator":
        return False
    return tokens[index + 1].kind in ("number", "prefix", "open", "unknown")
