"""The lexical side of equation finding: text in, the tokens that can be part of an equation out.

Numbers keep what their notation says (value as calculator text, percent sign, decimals); operators come in one
spelling; words, currency signs and LaTeX decoration are kept as what they are to an equation: units, prefixes, nothing.
A single letter that is no unit ("2x + 3") is "unknown": there is algebra, and nothing to calculate. It knows nothing
about which tokens form an equation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["number", "operator", "open", "close", "equals", "word", "prefix", "annotation", "unknown", "stop"]

_DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Thousands set apart by a space. "12 500" may as well be two numbers; a no-break or thin space, or "000", may not.
_SPACED = r"[0-9]{1,3}(?:(?:[\ \u00a0\u2009\u202f]|\\,)[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?"
_TWO_NUMBERS = re.compile(r"\ (?!000)")
_POWER_OF_TEN = r"[eE][-+]?[0-9]{1,2}(?![A-Za-z0-9])"
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_SPELLING = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": "-", "^": "**", "x": "*", "X": "*"}
_BETWEEN = {"x": "*", "of": "*", "plus": "+", "minus": "-", "times": "*", "divided": "/", "multiplied": "*"}
_OPERAND_AHEAD = re.compile(r"(?:\s+by\b)?\s*\\?[$€£(]*\s*\.?[0-9½¼¾⅓⅔]")
_LOOK_AHEAD = 12
# Characters behind such a word in which the next operand must begin.
_LATEX_OPERATORS = {"times": "*", "cdot": "*", "div": "/"}
_LETTER = re.compile(r"[a-zα-ω]|[xyz]{2,3}")
# A name of algebra, unless it is a unit, or the article in "5 a day".
_UNIT_LETTERS = frozenset("gmlshk")
_IN_FRACTION = frozenset({"number", "operator", "open", "close", "prefix", "word"})
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ"
_RAISED = str.maketrans(_SUPERSCRIPTS[:10], "0123456789")

_TOKEN = re.compile(
    rf"""(?P<annotation><<[^<>\n]*>>)
      | (?:(?P<mixed>[0-9]++)\s*+)?\\[dt]?frac
            (?:\s*\{{\s*(?P<above>[^{{}}\n]{{1,40}})\}}\s*\{{(?P<below>[^{{}}\n]{{1,40}})\}}
              |\s*(?P<digit_above>[0-9])\s*(?P<digit_below>[0-9])(?![0-9]))
      | \\(?P<latex_operator>times|cdot|div)(?![A-Za-z])
      | \^\s*\{{\s*(?P<exponent>-?[0-9]{{1,4}})\s*\}} | (?P<superscript>[⁰¹²³⁴⁵⁶⁷⁸⁹]{{1,4}})
      | \\(?:text(?:bf|rm|it)?\s*\{{(?P<latex_words>[^{{}}\n]*)|math(?:bf|rm|it)\s*\{{(?P<math_words>[^{{}}0-9\n]*))\}}
      | (?P<prefix>\\(?:boxed|math(?:bf|rm|it))\s*\{{ | \\?[$€£₹¥])
      | (?P<latex_space>\\(?:[,;:!]|left|right|quad|\(|\)|\[|\]|displaystyle)
                       | &(?=\s*(?:=|≈|\\approx)) | (?<==)&)
      | (?P<whole>[0-9]+)\ (?:and\ )?(?P<numerator>[0-9]{{1,2}})/(?P<denominator>[0-9]+)(?![0-9./])
      | (?P<malformed>(?![0-9]{{1,3}}(?:,[0-9]{{3}})+(?!,?[0-9]))[0-9]+(?:,[0-9]+)+ | 0[0-9]+(?![0-9.]))
      | (?P<number>{_SPACED}|(?:{_DIGITS})(?:{_POWER_OF_TEN})?)
            (?P<vulgar_after>[½⅓⅔¼¾⅕⅛])?(?P<percent>\s?\\?%|\ percent(?![A-Za-z]))?
      | (?P<vulgar>[½⅓⅔¼¾⅕⅛])
      | (?P<equals>=|≈|\\approx(?![A-Za-z]))
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
    ambiguous: bool = False
    # "12 500": one number or two.


def tokenise(text: str) -> list[Token]:
    """The tokens of `text` in order; white space and LaTeX decoration are left out. Total, linear in length."""
    tokens: list[Token] = []
    for token in _raw_tokens(text):
        if _is_emphasis(token, tokens, text):
            token = replace(token, kind="prefix")
        if token.text == "by" and tokens and tokens[-1].kind == "operator":
            continue  # "divided by"
        token = _as_operator(token, tokens, text)
        if _is_unknown(token, tokens):
            token = replace(token, kind="unknown")
        tokens.append(token)
        if token.kind == "close":
            _fold_remark(tokens)
    return tokens


def _raw_tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind, start, end = match.lastgroup, match.start(), match.end()
        if match["above"] is not None or match["digit_above"] is not None:
            yield from _latex_fraction(match)
        elif match["whole"] is not None:
            yield from _mixed_number(match)
        elif match["number"] is not None:
            yield _number(match)
        elif match["vulgar"] is not None:
            yield Token("number", start, end, _VULGAR[match["vulgar"]], compound=True)
        elif kind in ("exponent", "superscript"):
            yield Token("operator", start, match.start(kind), "**")
            yield Token("number", match.start(kind), end, match[kind].translate(_RAISED))
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
    start, end = match.span()
    digits = re.sub(r"[,\s\\{}]", "", match["number"])
    decimals = 0 if "e" in digits.lower() else len(digits.partition(".")[2])
    ambiguous = bool(_TWO_NUMBERS.search(match["number"]))
    if match["vulgar_after"]:
        value = f"{digits}+{_VULGAR[match['vulgar_after']]}"
        return Token("number", start, end, value, compound=True, ambiguous=ambiguous)
    percent = bool(match["percent"])
    return Token("number", start, end, digits, percent=percent, decimals=decimals, ambiguous=ambiguous)


def _mixed_number(match: re.Match[str]) -> Iterator[Token]:
    """ "2 1/2" is one number; in "for 3 12/4 = 3" there are two, since nobody writes a mixed number like that."""
    above, below = match.span("numerator"), match.span("denominator")
    if int(match["numerator"]) < int(match["denominator"]):
        value = f"{match['whole']}+{match['numerator']}/{match['denominator']}"
        yield Token("number", match.start(), match.end(), value, compound=True)
        return
    yield Token("number", *match.span("whole"), match["whole"])
    yield Token("number", *above, match["numerator"])
    yield Token("operator", above[1], below[0], "/")
    yield Token("number", *below, match["denominator"])


def _latex_fraction(match: re.Match[str]) -> Iterator[Token]:
    r"""One number for `\frac{1}{2}` and `\frac12`; parentheses and a slash for `\frac{3 + 5}{2}`."""
    start, end = match.span()
    spans = [
        match.span(f"{kind}{place}") for place in ("above", "below") for kind in ("", "digit_") if match[kind + place]
    ]
    parts = [re.sub(r"[,$\\\s]", "", match.string[a:b]) for a, b in spans]
    if all(re.fullmatch(_DIGITS, part) for part in parts):
        whole = f"{match['mixed']}+" if match["mixed"] else ""
        yield Token("number", start, end, whole + "/".join(parts), compound=True)
        return
    inner = [
        [replace(one, start=one.start + a, end=one.end + a) for one in tokenise(match.string[a:b])] for a, b in spans
    ]
    if match["mixed"] or any(one.kind not in _IN_FRACTION for part in inner for one in part):
        yield Token("stop", start, end, match.group())
        return
    middle = spans[0][1]
    yield from _grouped(inner[0], start, middle)
    yield Token("operator", middle, middle, "/")
    yield from _grouped(inner[1], middle, end)


def _grouped(tokens: list[Token], start: int, end: int) -> list[Token]:
    """`tokens` as one operand that reaches from `start` to `end`."""
    if len(tokens) == 1:
        return [replace(tokens[0], start=start, end=end)]
    return [Token("open", start, start, "("), *tokens, Token("close", end, end, ")")]


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


def _is_emphasis(token: Token, before: list[Token], text: str) -> bool:
    """Markdown: "**48** + **24** = **72**", "= *72*". Such a sign clings to one side, or stands behind the equals."""
    if token.kind != "operator" or text[token.start : token.end] not in ("*", "**"):
        return False
    if before and before[-1].kind == "equals":
        return True
    left, right = text[max(0, token.start - 1) : token.start], text[token.end : token.end + 1]
    return token.end - token.start == 2 and (not left.strip()) != (not right.strip())


def _is_unknown(token: Token, before: list[Token]) -> bool:
    name = token.text.rstrip(_SUPERSCRIPTS)
    if token.kind != "word" or not _LETTER.fullmatch(name) or name in _UNIT_LETTERS:
        return False
    glued = bool(before) and before[-1].kind == "number" and before[-1].end == token.start
    return glued or name not in ("a", "i")


def _fold_remark(tokens: list[Token]) -> None:
    """ "(house and food)" at the end of `tokens`, words only, becomes one word: a remark on the operand before it."""
    first = len(tokens) - 2
    while first >= 0 and tokens[first].kind == "word":
        first -= 1
    if 0 <= first < len(tokens) - 2 and tokens[first].kind == "open":
        tokens[first:] = [Token("word", tokens[first].start, tokens[-1].end, "()")]


def _is_fraction(before: list[Token]) -> bool:
    return len(before) >= 3 and before[-2].text == "/" and before[-1].kind == before[-3].kind == "number"
