"""Text from models, searches and files -> text a person can look at: capped, nothing invisible, nothing reordered.

Control characters, bidirectional overrides, zero-width characters and lone surrogates come out as `⟨U+202E⟩`.
It does not escape for HTML or Markdown: the template's autoescape and `markdown.safe_cell` do that afterwards.
"""

from __future__ import annotations

import unicodedata
from typing import Any, NamedTuple

# Control, format (bidi, zero-width, tags), surrogate, private use, unassigned, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_PLAIN = frozenset("\n\t")


class Piece(NamedTuple):
    """A run of characters: `hidden` ones were replaced by their visible name."""

    hidden: bool
    text: str


def cap(value: Any, limit: int) -> str:
    """`value` as text of at most `limit` characters, saying how many were left out; None is empty."""
    text = "" if value is None else str(value)
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … [{len(text) - limit:,} more characters]"


def pieces(value: Any, limit: int = 4000) -> list[Piece]:
    """`value` as alternating visible and replaced runs; their texts joined are `visible(value, limit)`."""
    result: list[Piece] = []
    run: list[str] = []
    for char in cap(value, limit).replace("\r\n", "\n"):
        if char in _PLAIN or unicodedata.category(char) not in _HIDDEN:
            run.append(char)
            continue
        if run:
            result.append(Piece(False, "".join(run)))
            run = []
        result.append(Piece(True, f"⟨U+{ord(char):04X}⟩"))
    if run:
        result.append(Piece(False, "".join(run)))
    return result


def visible(value: Any, limit: int = 4000) -> str:
    """`value` as text without hidden characters, at most `limit` characters of it."""
    return "".join(piece.text for piece in pieces(value, limit))
