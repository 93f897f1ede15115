"""Text in, sentence offsets out. Used by the solvers, by tool insertion and by the local teacher.

Rule based and deterministic: a sentence ends at `.`, `!` or `?` (closing quotes and brackets included) before white
space, or at a line break. Not at decimals ("3.5"), titles and initials ("Mr.", "S. P. L. Lund"), list numbers
("1. First"), nor before a lower-case letter. It does not repair text and knows English abbreviations only.
"""

from __future__ import annotations

import re

# Abbreviations that stand before a capital without ending a sentence. Those that often end one ("etc.", "Jr.") are not
# here: before a lower-case letter no sentence ends anyway.
_ABBREVIATIONS = frozenset("mr mrs ms dr prof st mt vs gen col capt lt sgt rev hon sen gov cf".split())
_BEFORE_NUMBERS = frozenset("no nos fig eq pp vol ch approx ca".split())
# Abbreviations only if a digit follows ("No. 5"); "no" is a word otherwise.
# Look-behind and possessive quantifiers keep it linear on hostile text (100,000 dots).
_END = re.compile(r"""(?<![.!?])[.!?]++["'”’)\]]*+(?=\s)[^\S\n]*+|\n\s*+""")
_LAST_WORD = re.compile(r"([^\W\d_]+)$")
_LONGEST_WORD = 12
# Characters before a full stop that are looked at: more than any abbreviation or list number has.


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Offsets `(start, end)` of the sentences of `text` [number of sentences], contiguous and covering all of it.

    White space after a sentence belongs to that sentence, so `"".join(text[a:b] for a, b in ...) == text`.
    An empty text has no sentence; one of white space only has one. Source: ours.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if end >= len(text):
            break
        if "\n" in match.group() or _ends_sentence(text, start, match):
            if not text[start:end].strip():
                continue  # leading white space joins the first sentence
            spans.append((start, end))
            start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def sentences(text: str) -> list[str]:
    """The sentences themselves, without surrounding white space [number of sentences]."""
    return [text[start:end].strip() for start, end in split_sentences(text)]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    following = text[match.end()]
    if following == "\n":
        return False  # the line break itself ends the sentence
    if not match.group().startswith("."):
        return True
    if following.islower():
        return False
    if match.group().startswith(".."):
        return True
    before = text[max(start, match.start() - _LONGEST_WORD) : match.start()]
    if match.start() - start <= _LONGEST_WORD and before.strip().isdecimal():
        return False  # a list number, "1. First"
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    name = word.group(1)
    is_initial = len(name) == 1 and name.isupper() and name != "I"
    is_numbering = following.isdecimal() and name.lower() in _BEFORE_NUMBERS
    return not (is_initial or is_numbering or name.lower() in _ABBREVIATIONS)
