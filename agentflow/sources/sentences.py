"""Text in, sentence offsets out. Used by the solvers, by tool insertion and by the local teacher.

Rule based and deterministic: a sentence ends at `.`, `!` or `?` (closing quotes and brackets included) before white
space, or at a line break. Not at decimals ("3.5"), titles and initials ("Mr.", "S. P. L. Lund"), list numbers
("1. First"), nor before a lower-case letter. It does not repair text and knows English abbreviations only.
"""

from __future__ import annotations

import re

# Abbreviations that are followed by a capital without ending a sentence. Those that may end one ("etc.", "a.m.")
# are not here: before a lower-case letter no sentence ends anyway.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st mt ft no vs gen col capt lt sgt rev hon sen rep gov fig eq cf approx dept est jr sr".split()
)
_END = re.compile(r"""[.!?]+["'”’)\]]*(?=\s)[^\S\n]*|\s*\n\s*""")
_LAST_WORD = re.compile(r"([^\W\d_]+)\.$")


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
    before = text[start : match.start() + 1]
    if re.fullmatch(r"\s*\d+\.", before):
        return False  # a list number, "1. First"
    word = _LAST_WORD.search(before)
    if word is None or match.group().startswith(".."):
        return True
    name = word.group(1)
    is_initial = len(name) == 1 and name.isupper() and name != "I"
    return not (is_initial or name.lower() in _ABBREVIATIONS)
