"""The lexical side of equation finding: text in, the tokens that can be part of an equation out.

Numbers keep what their notation says (value as calculator text, percent sign, decimals); operators come in one
spelling; words, currency signs and LaTeX decoration are kept as what they are to an equation: units, prefixes, nothing.
It knows nothing about which tokens form an equation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["number", "operator", "open", "close", "equals", "word", "prefix", "annotation", "stop"]

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Thousands set apart by a space that cannot be anything else: a no-break or thin one, or a plain one before "000".
_SPACED = r"[0-9]{1,3}(?:(?:[\u00a0\u2009\u202f]|\\,)[0-9]{3}|\ 000)+(?![0-9,])(?:\.[0-9]+)?"
_POWER_OF_TEN = r"[eE][-+]?[0-9]{1,2}(?![A-Za-z0-9])"
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_SPELLING = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": "-", "^": "**", "x": "*", "X": "*"}
_BETWEEN = {"x": "*", "of": "*", "plus": "+", "minus": "-", "times": "*", "divided": "/", "multiplied": "*"}
_OPERAND_AHEAD = re.compile(r"(?:\s+by\b)?\s*\\?[$€£(]*\s*\.?[0-9½¼¾⅓⅔]")
_LOOK_AHEAD = 12
# Characters behind such a word in which the next operand must begin.
_LATEX_OPERATORS = {"times": "*", "cdot": "*", "div": "/"}

_TOKEN = re.compile(
    rf"""(?P<annotation><<[^<>\n]*>>)
      | (?:(?P<mixed>[0-9]++)\s*+)?\\[dt]?frac
            \s*\{{\s*(?P<above>[^{{}}\n]{{1,40}})\}}\s*\{{(?P<below>[^{{}}\n]{{1,40}})\}}
      | \\(?P<latex_operator>times|cdot|div)(?![A-Za-z])
      | \\(?:text(?:bf|rm|it)?\s*\{{(?P<latex_words>[^{{}}\n]*)|math(?:bf|rm|it)\s*\{{(?P<math_words>[^{{}}0-9\n]*))\}}
      | (?P<prefix>\\(?:boxed|math(?:bf|rm|it))\s*\{{ | \\?[$€£₹¥])
      | (?P<latex_space>\\(?:[,;:!]|left|right|quad|\(|\)|\[|\]|displaystyle))
      | (?P<whole>[0-9]+)\ (?:and\ )?(?P<numerator>[0-9]+)/(?P<denominator>[0-9]+)(?![0-9./])
      | (?P<malformed>(?![0-9]{{1,3}}(?:,[0-9]{{3}})+(?!,?[0-9]))[0-9]+(?:,[0-9]+)+ | 0[0-9]+(?![0-9.]))
      | (?P<number>{_SPACED}|(?:{_DIGITS})(?:{_POWER_OF_TEN})?)
            (?P<vulgar_after>[½⅓⅔¼¾⅕⅛])?(?P<percent>\s?\\?%|\ percent(?![A-Za-z]))?
      | (?P<vulgar>[½⅓⅔¼¾⅕⅛])
      | (?P<equals>=|≈)
      | (?P<operator>\*\*|[-+*/^×·⋅÷−–—])
      | (?P<open>[(]) | (?P<close>[)])
      | (?P<word>(?:sq|ft|oz|lbs?|hrs?|mins?|[^\W\d_]+(?=\.\s*[-+*/×÷=]))\. | [^\W\d_]+(?:['’-][^\W\d_]+)*)
      | (?P<line>\n) | (?P<space>\s+) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """One piece of text as an equation sees it."""

    kind: Kind
    start: int
    end: int
    # Offsets in the text.
    text: str
    # "number": calculator text of one operand; "operator": in the calculator's spelling; "word": lower case.
    percent: bool = False
    # A number followed by a percent sign.
    decimals: int = 0
    # A number's printed decimals.
    compound: bool = False
    # A number written as a fraction or mixed number: needs parentheses beside * / **.


def tokenise(text: str) -> list[Token]:
    """The tokens of `text` in order; white space and LaTeX decoration are left out. Total, linear in length."""
    tokens: list[Token] = []
    for token in _raw_tokens(text):
        if token.text == "**" and tokens and tokens[-1].kind == "equals":
            token = replace(token, kind="prefix")  # Markdown: "= **24**"
        if token.text == "by" and tokens and tokens[-1].kind == "operator":
            continue  # "divided by"
        token = _as_operator(token, tokens, text)
        tokens.append(token)
        if token.kind == "close":
            _fold_remark(tokens)
    return tokens


def _raw_tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind, start, end = match.lastgroup, match.start(), match.end()
        if match["above"] is not None:
            yield _latex_fraction(match)
        elif match["whole"] is not None:
            value = f"{match['whole']}+{match['numerator']}/{match['denominator']}"
            yield Token("number", start, end, value, compound=True)
        elif match["number"] is not None:
            yield _number(match)
        elif match["vulgar"] is not None:
            yield Token("number", start, end, _VULGAR[match["vulgar"]], compound=True)
        elif kind == "latex_operator":
            yield Token("operator", start, end, _LATEX_OPERATORS[match["latex_operator"]])
        elif kind == "operator":
            yield Token("operator", start, end, _SPELLING.get(match.group(), match.group()))
        elif kind in ("latex_words", "math_words"):
            yield Token("word", start, end, match[kind].strip().lower())
        elif kind == "word":
            yield Token("word", start, end, match.group().lower())
        elif kind in ("equals", "open", "close", "prefix", "annotation"):
            yield Token(kind, start, end, match.group())  # type: ignore[arg-type]
        elif kind not in ("space", "latex_space"):
            yield Token("stop", start, end, match.group())


def _number(match: re.Match[str]) -> Token:
    digits = re.sub(r"[,\s\\]", "", match["number"])
    decimals = 0 if "e" in digits.lower() else len(digits.partition(".")[2])
    if match["vulgar_after"]:
        return Token("number", match.start(), match.end(), f"{digits}+{_VULGAR[match['vulgar_after']]}", compound=True)
    return Token("number", match.start(), match.end(), digits, percent=bool(match["percent"]), decimals=decimals)


def _latex_fraction(match: re.Match[str]) -> Token:
    parts = [re.sub(r"[,$\\\s]", "", part) for part in match.group("above", "below")]
    if not all(re.fullmatch(_DIGITS, part) for part in parts):
        return Token("stop", match.start(), match.end(), match.group())
    whole = f"{match['mixed']}+" if match["mixed"] else ""
    return Token("number", match.start(), match.end(), whole + "/".join(parts), compound=True)


def _as_operator(token: Token, before: list[Token], text: str) -> Token:
    """A word between two operands as the operator it stands for: "2 x 3", "6x$5", "8 plus 4", "25% of 80"."""
    if token.kind != "word" or not before or token.text not in _BETWEEN:
        return token
    if not _OPERAND_AHEAD.match(text, token.end, token.end + _LOOK_AHEAD):
        return token
    last = before[-1]
    fraction = last.percent or last.compound or _is_fraction(before)
    if last.kind not in ("number", "close", "word") or (token.text == "of" and not fraction):
        return token
    return Token("operator", token.start, token.end, _BETWEEN[token.text])


def _fold_remark(tokens: list[Token]) -> None:
    """ "(house and food)" at the end of `tokens`, words only, becomes one word: a remark on the operand before it."""
    first = len(tokens) - 2
    while first >= 0 and tokens[first].kind == "word":
        first -= 1
    if 0 <= first < len(tokens) - 2 and tokens[first].kind == "open":
        tokens[first:] = [Token("word", tokens[first].start, tokens[-1].end, "()")]


def _is_fraction(before: list[Token]) -> bool:
    return len(before) >= 3 and before[-2].text == "/" and before[-1].kind == before[-3].kind == "number"
