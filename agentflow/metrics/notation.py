"""How an answer is written, made plain: LaTeX and Unicode in, the same answer in plain characters out.

    without_wrappers   \\boxed{\\text{New York}}  ->  New York          for any answer
    plain_numbers      1\\tfrac{3}{4}, 1¾          ->  1 3/4            for numbers; 2\\cdot10^{3}, 2·10³ -> 2·10^3

Both are total and take time linear in the text. Nothing is evaluated.
"""

from __future__ import annotations

import re
import unicodedata

_MAX_WRAPS = 4
# Wrappers in wrappers that are opened; deeper ones are no answers.
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|rm|it|tt|sf|sc|up|md|normal)?|math(?:rm|bf|it|tt|sf)|operatorname|emph|mbox|boxed|fbox)"
    r"\s*\{([^{}]*)\}"
)
_LATEX_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])")


def _as_fraction(found: re.Match[str]) -> str:
    """A LaTeX fraction in plain text: "1\\frac{3}{4}" is "1 3/4" (without the blank it would be 13/4)."""
    digit, *parts = found.groups()
    above, below = (part.strip() for part in parts if part is not None)
    return f"{digit + ' ' if digit else ''}{above}/{below}"


def _of_one_character(found: re.Match[str]) -> str:
    """ "3½" is "3 1/2", "½" is "1/2"."""
    parts = unicodedata.normalize("NFKC", found[2]).replace("⁄", "/")
    return f"{found[1] + ' ' if found[1] else ''}{parts}"


def _as_power(found: re.Match[str]) -> str:
    """ "10³" is "10^3"."""
    return "^" + unicodedata.normalize("NFKC", found[0])


_PART = r"\s*(?:\{([^{}]*)\}|([0-9]))"
# Of \frac: in braces, or one bare digit.
_NUMBERS = (
    (re.compile(rf"(?:([0-9])\s?)?\\[dtc]?frac{_PART}{_PART}"), _as_fraction),
    (re.compile(r"\\times(?![A-Za-z])"), "×"),
    (re.compile(r"\\cdot(?![A-Za-z])"), "·"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"\\approx(?![A-Za-z])"), "≈"),
    (re.compile(r"\^\s?\{\s?([-+−]?[0-9]{1,3})\s?\}"), r"^\1"),
    (re.compile(r"\\[,;! ]|\\left|\\right|\*\*|\\\(|\\\)|\\\[|\\\]"), ""),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])"), ","),
    (re.compile(r"(?:([0-9])\s?)?([¼-¾⅐-⅞])"), _of_one_character),
    (re.compile(r"⁻?[⁰¹²³⁴-⁹]+"), _as_power),
    (re.compile(r"(?<=[0-9])⁄(?=[0-9])"), "/"),
)


def without_wrappers(text: str) -> str:
    """`text` without LaTeX's wrappers of text and font (\\boxed, \\text, \\mathrm, ...) and its spaces."""
    return _LATEX_SPACE.sub(" ", _unwrapped(text))


def plain_numbers(text: str) -> str:
    """`text` with its numbers in plain characters: fractions, powers, signs and separators of LaTeX and Unicode."""
    plain = _unwrapped(text)
    for pattern, replacement in _NUMBERS:
        plain = pattern.sub(replacement, plain)
    return plain


def _unwrapped(text: str) -> str:
    for _ in range(_MAX_WRAPS):
        text, count = _WRAPPER.subn(r"\1", text)
        if not count:
            break
    return text
