"""The numbers in a text: as a whole, the only one, or the last one. Text in, exact fractions out.

An answer that is not one number as a whole counts as its number only where it states no second one (`sole_number`):
whoever lists "5 or 6" has answered neither. Every function is total: any string gives a value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from agentflow.metrics.notation import plain_numbers

_MAX_DIGITS = 60
# Longer numbers are no answers (and int() of a hostile million digits is slow).
_TOLERANCE = Fraction(1, 10**9)
# Relative; covers a calculator's 10 significant digits, e.g. 0.3333333333 for 1/3.

# "12 000", with the same plain, no-break or thin space between all groups. What goes on behind it ("1 234,5",
# "3 100/2") is no such number.
_SPACED = r"[1-9][0-9]{0,2}(?P<gap>[ \u00a0\u2009\u202f])[0-9]{3}(?:(?P=gap)[0-9]{3})*(?!,?[0-9])(?!\s?[/^])"
_DIGITS = rf"(?:{_SPACED}|[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_POWER = r"(?:(?P<times>\s?[×·*x]\s?10)?\s?\^\s?(?P<power>[-+−]?[0-9]{1,2})(?![0-9])|[eE](?P<e>[-+]?[0-9]{1,2})(?!\w))?"
# "2×10^3", "10^3", "2e3".
_BELOW = r"(?: (?P<above>[0-9]{1,3})/(?P<under>[1-9][0-9]{0,2})(?![0-9./])|\s?/\s?(?P<below>[1-9][0-9]*)(?![0-9./]))?"
# "1 3/4", "3/4".
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SHORT = {"k": 10**3, "m": 10**6, "b": 10**9}
# Only of money: "$5k" is 5000, but "5k" a distance and "5m" a length.
_SCALE = rf"(?(currency)(?P<short>[kKmMbB](?!\w))?)(?P<scale>(?i:(?:[\s-]?(?:{'|'.join(_SCALES)})s?\b){{0,2}}))"
_MONEY = r"(?:(?P<currency>[$€£₹¥])\s{blank}(?P<inner>[-−–])?)?"
# A sign counts only where it cannot be a minus or a range: "5-3" ends in 3, "is -3" in -3, "$-3" and "-$3" too.
# What stands behind "^" is an exponent, as in "25 cm^2", and no number of its own.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)%^])[-−–])?{_MONEY.format(blank='?')}(?<![\w.,^])(?<!\^[-+−])"
    rf"(?P<value>{_DIGITS}){_POWER}{_BELOW}{_SCALE}"
)
_WHOLE = re.compile(
    rf"[~≈]?\s*(?P<sign>[-+−–])?\s*{_MONEY.format(blank='*')}(?P<value>{_DIGITS}){_POWER}{_BELOW}{_SCALE}"
    r"(?:\s*(?:%|percent|dollars?|cents?|usd))?[.!\s]*",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}|\${1,3}([^$]*)\${1,2}|\{(.*)\}", re.DOTALL)
_MAX_WRAPS = 4

# Digits that are no number: of an exponent ("cm^2") or at the end of a unit or formula ("m2", "CO2").
_NO_NUMBER = re.compile(r"\^\s?[-+−–]?[0-9]+|(?<=[^\W\d_])[23](?!\w)")
_STRAY = re.compile(r"\d|±")
_LINK = re.compile(r"[\w\s()\[\]{}$€£₹¥%'’°\\|=+\-−–*×·÷/^]*")
_JOINT = re.compile(r"\b(?:and|or|to|not|but|so|then|where|when|if|with)\b", re.IGNORECASE)
_OPERATOR = re.compile(r"[+\-−–*×·÷/^]|\b(?:x|times|plus|minus|of|by)\b", re.IGNORECASE)


class Number(NamedTuple):
    """A number as it stands in a text."""

    text: str
    # In plain notation; `parse_number` of it gives the value again.
    value: Fraction


def parse_number(text: str) -> Fraction | None:
    """The number `text` is, as a whole; else None.

    "$1,234.50", "12 000", "72.0", "-3", "3/4", "1 3/4", "3½", "50%" (= 50), "2e3", "2×10^3", "1.5 million", "$5k", and
    the same in LaTeX: "\\frac34", "1\\tfrac{3}{4}", "2\\cdot10^{3}", "\\$1{,}234", "72\\text{ dollars}", "\\boxed{72}".
    """
    plain = plain_numbers(text).strip()
    for _ in range(_MAX_WRAPS):
        if (wrapped := _WRAPPED.fullmatch(plain.rstrip(".! \n"))) is None:
            break
        plain = next(inside for inside in wrapped.groups() if inside is not None).strip()
    match = _WHOLE.fullmatch(" ".join(plain.split()))
    return _fraction(match) if match and not _two_numbers(match) else None


def numbers_in(text: str) -> list[Fraction]:
    """All numbers in `text` in order; what is too long to be an answer is left out."""
    values = (_fraction(match) for match in _NUMBER.finditer(plain_numbers(text)))
    return [value for value in values if value is not None]


def read_number(text: str) -> Fraction | None:
    """The last number in `text`, None if there is none."""
    found = numbers_in(text)
    return found[-1] if found else None


def numbers_equal(a: str, b: str) -> bool:
    """Whether both texts are numbers (see `parse_number`) of one value, up to a relative 1e-9."""
    first, second = parse_number(a), parse_number(b)
    return first is not None and second is not None and close(first, second)


def close(a: Fraction, b: Fraction) -> bool:
    """Whether two values are equal up to a relative 1e-9 (below 1: an absolute one)."""
    return abs(a - b) <= _TOLERANCE * max(Fraction(1), abs(b))


def sole_number(text: str) -> Number | None:
    """The one number that `text` states among its words ("72 clips"); None if it states none or several.

    Numbers of one value are one ("$72, so 72 dollars"). Of one chain of equations it is the result: the last side if
    that is a single number, else the first side that is one ("48 + 24 = 72", "72 = 48 + 24"). Nothing is computed, so
    "48 + 24" states none. Sides that are bare numbers must be equal. Source: ours.
    """
    plain = plain_numbers(text)
    matches = list(_NUMBER.finditer(plain))
    values = [None if _two_numbers(match) else _fraction(match) for match in matches]
    found = [
        Number(match.group().strip(), value) for match, value in zip(matches, values, strict=True) if value is not None
    ]
    if not found or len(found) < len(matches) or _stray(plain, matches):
        return None
    if all(close(number.value, found[0].value) for number in found):
        return found[0]
    sides = _sides(plain, matches, found)
    single = [side[0] for side in sides if len(side) == 1]
    if len(sides) < 2 or not single or not _bare_sides_agree(plain):
        return None
    return single[-1] if len(sides[-1]) == 1 else single[0]


def _stray(plain: str, matches: Sequence[re.Match[str]]) -> bool:
    """Whether digits are left beside the numbers, as in "3,4" and "5or6"."""
    kept, position = [], 0
    for match in matches:
        kept.append(plain[position : match.start()])
        position = match.end()
    return _STRAY.search(_NO_NUMBER.sub("", " ".join([*kept, plain[position:]]))) is not None


def _sides(plain: str, matches: Sequence[re.Match[str]], found: Sequence[Number]) -> list[list[Number]]:
    """The numbers of each side of the one chain of equations that `plain` is; empty if it is none."""
    sides = [[found[0]]]
    for before, after, number in zip(matches, matches[1:], found[1:], strict=False):
        link = plain[before.end() : after.start("value")]
        if _LINK.fullmatch(link) is None or _JOINT.search(link):
            return []
        if "=" in link:
            sides.append([number])
        elif _OPERATOR.search(link):
            sides[-1].append(number)
        else:
            return []
    return sides


def _bare_sides_agree(plain: str) -> bool:
    """Whether the sides that are nothing but a number have one value; a fraction may be printed rounded."""
    bare = [value for side in plain.split("=") if "/" not in side and (value := parse_number(side)) is not None]
    return all(close(value, bare[0]) for value in bare)


def _two_numbers(match: re.Match[str]) -> bool:
    """Whether what looks like a mixed number is none: "3 48/2"."""
    return match["above"] is not None and int(match["above"]) >= int(match["under"])


def _fraction(match: re.Match[str]) -> Fraction | None:
    digits, below = re.sub(r"[,\s]", "", match["value"]), match["below"] or "1"
    if len(digits) > _MAX_DIGITS or len(below) > _MAX_DIGITS:
        return None
    value = Fraction(digits)
    if (exponent := match["power"] or match["e"]) is not None:
        # "10^3" raises the number itself, "2×10^3" and "2e3" ten.
        factor, base = (value, Fraction(10)) if match["times"] or match["e"] else (Fraction(1), value)
        power = int(exponent.replace("−", "-"))
        if not base and power < 0:
            return None
        value = factor * base**power
    value /= int(below)
    if match["above"]:
        part = Fraction(int(match["above"]), int(match["under"]))
        value = part if _two_numbers(match) else value + part  # of two numbers the last counts
    return _scaled(value, match) * (-1 if _negative(match) else 1)


def _scaled(value: Fraction, match: re.Match[str]) -> Fraction:
    for word in re.findall("|".join(_SCALES), match["scale"].lower()):
        value *= _SCALES[word]
    return value * (_SHORT[match["short"].lower()] if match["short"] else 1)


def _negative(match: re.Match[str]) -> bool:
    return bool(match["sign"] and match["sign"] != "+") != bool(match["inner"])
