"""Text as hygiene sees it: words, runs of words as 64-bit hashes, and the skeleton in which all numbers are alike.

    "Mia sold 48/2 = 24 clips."  ->  words mia sold 48 2 24 clips  ->  skeleton mia sold # clips

Words are letters or numbers after NFKC and case folding; marks between them and invisible characters do not count.
Hashes find candidates only: whoever acts on one compares the words themselves. Scripts without spaces give one word a
clause, so runs of words (and with them all but exact twins) mean little there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
NUMBER = "#"
# What stands for any number in a skeleton; no word is written so.
_NUMBER_WORDS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half "
    "dozen twice thrice".split()
)
_BASE = np.uint64(0x9E3779B97F4A7C15)
# Odd, so that a run's hash depends on the order of its words.


def words(text: str) -> list[str]:
    """The words of `text` in order [number of words]."""
    return _WORD.findall(unicodedata.normalize("NFKC", without_hidden(text)).casefold())


def without_hidden(text: str) -> str:
    """`text` without its format characters (category Cf: zero-width space, soft hyphen, direction marks).

    Nobody sees them, but a word that holds one would be two words, and a copy that is full of them no copy.
    """
    return text if text.isascii() else "".join(char for char in text if unicodedata.category(char) != "Cf")


def skeleton(found: Sequence[str]) -> tuple[str, ...]:
    """`found` with every run of numbers, in digits or in words, as one NUMBER, the article before it included ("a
    hundred", "half a dozen"). Source: ours.
    """
    result: list[str] = []
    for word in found:
        if not (word[0].isdigit() or word in _NUMBER_WORDS):
            result.append(word)
            continue
        if result and result[-1] in ("a", "an"):
            result.pop()
        if not result or result[-1] != NUMBER:
            result.append(NUMBER)
    return tuple(result)


def text_hash(text: str) -> int:
    """64-bit hash of `text` (XXH64 of its UTF-8; lone surrogates by their escaped form)."""
    return int(xxhash.xxh64_intdigest(text.encode("utf-8", "backslashreplace")))


@dataclass(frozen=True)
class Runs:
    """All runs of n words of some texts, by hash."""

    hashes: Hashes
    # [number of runs]
    owners: Indices
    # Which text each stands in [number of runs], ascending.
    starts: Indices
    # Index of its first word in that text [number of runs].


class HashedWords:
    """The words of some texts as one array of 64-bit hashes."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
        self._ends = np.cumsum(self._lengths)
        total = int(self._ends[-1]) if len(texts) else 0
        digest = xxhash.xxh64_intdigest
        hashes = (digest(word.encode()) for text in texts for word in text)
        self._hashes = np.fromiter(hashes, dtype=np.uint64, count=total)

    def runs(self, n: int) -> Runs:
        """Every run of `n` words that stands in one text. A text with fewer words has none."""
        counts = np.maximum(self._lengths - (n - 1), 0)
        owners = np.repeat(np.arange(len(counts)), counts)
        first_of_text = np.repeat(self._ends - self._lengths, counts)
        starts = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = first_of_text + starts
        hashes = np.zeros(len(places), dtype=np.uint64)
        for offset in range(n):
            hashes = hashes * _BASE + self._hashes[places + offset]
        return Runs(hashes, owners, starts)
