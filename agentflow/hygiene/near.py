"""Near duplicates: questions most of whose pairs of neighbouring words are the same.

In: texts and the order in which they have a right to stay. Out: the ones to drop, each with the text that stays and
their similarity. MinHash (datasketch) proposes pairs, banded as in locality-sensitive hashing; what is dropped is
decided on the exact Jaccard similarity. datasketch's own index keeps a Python set for every row and band, several GB
for a million rows; here a row is one number a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from agentflow.hygiene.text import HashedWords, Hashes, Indices, words

SHINGLE_WORDS = 2
# Pairs and not longer runs: questions are short, and one changed word breaks as many runs as they are long.
PERMUTATIONS = 128
BANDS, BAND_ROWS = 32, 4
# A pair of similarity 0.8 is proposed with probability 1 - (1 - 0.8^4)^32 > 0.9999999, one of 0.6 with 0.988.
MOST_COMPARED = 64
# Texts that stay with which one text is compared, and that a bucket remembers (promise P7): a million look-alikes that
# are not alike enough cannot make it quadratic. Which they are follows from `order`, so it depends on no file order.
_CHUNK = 2048
# Texts hashed at once.

Shingles = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Near:
    """A text that is too much like one that stays."""

    index: int
    twin: int
    similarity: float
    # Jaccard similarity of the two sets of word pairs, 0 to 1.


def similarity(one: Shingles, other: Shingles) -> float:
    """Jaccard similarity of two sets of shingles, each sorted and without repetitions; 0.0 if both are empty."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else 0.0


def shingles(text: str) -> Shingles:
    """The hashes of the pairs of neighbouring words of `text`, sorted, each once; a one-word text is its own."""
    return _shingles([words(text)])[0]


def near_twins(texts: Sequence[str], order: Indices, fixed: npt.NDArray[np.bool_], threshold: float) -> Iterator[Near]:
    """The texts to drop, in `order`: those at least `threshold` similar to one that stays.

    A text stays if it is `fixed` (evaluation questions) or like no text that stays and comes before it in `order`, so a
    chain of look-alikes is not dropped as a whole. `order` may leave texts out; they take no part. Source: Broder 1997
    for the sketch, the rule ours.
    """
    buckets = _buckets(texts, order)
    kept: dict[tuple[int, int], list[int]] = {}
    shingles_of = lru_cache(maxsize=4096)(lambda index: shingles(texts[index]))
    shared = np.flatnonzero((buckets >= 0).any(axis=0))
    for place in shared:
        index = int(order[place])
        mine = [(band, int(bucket)) for band, bucket in enumerate(buckets[:, place]) if bucket >= 0]
        twin = None if fixed[index] else _twin(index, mine, kept, shingles_of, threshold)
        if twin is not None:
            yield twin
            continue
        for bucket in mine:
            members = kept.setdefault(bucket, [])
            if len(members) < MOST_COMPARED:
                members.append(index)


def _twin(
    index: int,
    mine: list[tuple[int, int]],
    kept: dict[tuple[int, int], list[int]],
    shingles_of: Callable[[int], Shingles],
    threshold: float,
) -> Near | None:
    """The most similar of MOST_COMPARED texts that stay and share a bucket; the first met of equals.

    Those of the smallest buckets come first: a template of hundreds of questions fills its bands' buckets with texts
    that are less alike than a twin, which shares smaller ones, too.
    """
    best: Near | None = None
    smallest_first = sorted((kept.get(bucket, ()) for bucket in mine), key=len)
    candidates = dict.fromkeys(member for members in smallest_first for member in members)
    for other in islice(candidates, MOST_COMPARED):
        found = similarity(shingles_of(index), shingles_of(other))
        if found >= threshold and (best is None or found > best.similarity):
            best = Near(index, other, found)
            if found == 1.0:
                break
    return best


def _buckets(texts: Sequence[str], order: Indices) -> npt.NDArray[np.int32]:
    """Per band and place in `order` the number of its bucket, -1 for a text alone in it [BANDS, len(order)]."""
    keys = np.empty((BANDS, len(order)), dtype=np.uint64)
    for start in range(0, len(order), _CHUNK):
        chunk = [words(texts[int(index)]) for index in order[start : start + _CHUNK]]
        keys[:, start : start + len(chunk)] = _band_keys(_signatures(_shingles(chunk)))
    buckets = np.full(keys.shape, -1, dtype=np.int32)
    for band in range(BANDS):
        _, numbers, counts = np.unique(keys[band], return_inverse=True, return_counts=True)
        buckets[band] = np.where(counts[numbers] > 1, numbers, -1)
    return buckets


def _shingles(texts: Sequence[Sequence[str]]) -> list[Shingles]:
    # A text with one word has no pair: its word stands twice. One without words has no shingle and no twin.
    runs = HashedWords([text if len(text) != 1 else [*text, *text] for text in texts]).runs(SHINGLE_WORDS)
    ends = np.searchsorted(runs.owners, np.arange(len(texts)), side="right")
    return [np.unique(runs.hashes[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _signatures(sets: Sequence[Shingles]) -> npt.NDArray[np.uint32]:
    """MinHash signatures [number of sets, PERMUTATIONS]."""
    from datasketch import MinHash  # takes two seconds to import

    # The shingles are hashes already; the sketch takes 32 bits.
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
    result = np.empty((len(sets), PERMUTATIONS), dtype=np.uint32)
    for row, one in enumerate(sets):
        sketch.clear()
        sketch.update_batch((one >> np.uint64(32)).tolist())
        result[row] = sketch.hashvalues
    return result


def _band_keys(signatures: npt.NDArray[np.uint32]) -> Hashes:
    """One 64-bit number for each band of each signature [BANDS, number of signatures]."""
    bands = signatures.astype(np.uint64).reshape(len(signatures), BANDS, BAND_ROWS)
    keys = np.zeros((len(signatures), BANDS), dtype=np.uint64)
    for row in range(BAND_ROWS):
        keys = keys * np.uint64(0xC2B2AE3D27D4EB4F) + bands[:, :, row]
        keys ^= keys >> np.uint64(29)
    return np.ascontiguousarray(keys.T)
