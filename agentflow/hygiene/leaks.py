"""Leaks: training questions that an evaluation set holds already.

In: the texts of evaluation questions, then texts to check. Out: for a leak its reason, the evaluation question and the
words they share. Three rules, the first that holds names the leak:

* `leak_exact`: the same words.
* `leak_ngram`: n words in a row of an evaluation question (13 as in Brown et al. 2020); of a shorter one, all of it.
* `leak_number_swap`: the same words but for the numbers (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agentflow.hygiene.text import NUMBER, HashedWords, skeleton, words

_CHUNK = 4096
SHORTEST_RUN = 8
# Words of the shortest evaluation question that is looked for inside longer texts (Brown et al. 2020 use 8 to 13).
SHORTEST_SKELETON = 6
# Words besides numbers: "what is 3 + 4" and "what is 5 + 6" are two questions, not one.


@dataclass(frozen=True)
class Leak:
    """A text that an evaluation set holds."""

    index: int
    reason: str
    # "leak_exact", "leak_ngram" or "leak_number_swap".
    twin: int
    # Which evaluation question.
    shared: str
    # The words they share, as `text.words` gives them.


class EvaluationIndex:
    """Evaluation questions, ready to be looked for.

    `texts` [number of questions] in an order that depends on their content: where several share a run of words, the
    first is named.
    """

    def __init__(self, texts: Sequence[str], *, n: int | None, number_swap: bool) -> None:
        self._n = n
        self._words = [tuple(words(text)) for text in texts]
        self._exact = _first_of(self._words)
        self._skeletons: dict[tuple[str, ...], int] = {}
        if number_swap:
            found = [skeleton(one) for one in self._words]
            self._skeletons = _first_of([one if _swappable(one) else () for one in found])
        self._runs: dict[int, dict[int, tuple[int, int]]] = {}
        # Length to hash of a run to (question, first word); the sorted hashes stand in `_sorted`.
        if n is not None:
            self._add_runs(n)
        self._sorted = {length: np.sort(np.fromiter(by, np.uint64, len(by))) for length, by in self._runs.items()}

    def check(self, texts: Sequence[str]) -> Iterator[Leak]:
        """The leaks among `texts`, at most one each, in their order."""
        for start in range(0, len(texts), _CHUNK):
            chunk = [words(text) for text in texts[start : start + _CHUNK]]
            by_run = self._by_run(chunk)
            for offset, found in enumerate(chunk):
                leak = self._exactly(found) or by_run.get(offset) or self._swapped(found)
                if leak is not None:
                    yield Leak(start + offset, *leak)

    def _exactly(self, found: list[str]) -> tuple[str, int, str] | None:
        twin = self._exact.get(tuple(found)) if found else None
        return None if twin is None else ("leak_exact", twin, " ".join(found))

    def _swapped(self, found: list[str]) -> tuple[str, int, str] | None:
        if not self._skeletons:
            return None
        bare = skeleton(found)
        twin = self._skeletons.get(bare) if bare else None
        return None if twin is None else ("leak_number_swap", twin, " ".join(bare))

    def _add_runs(self, n: int) -> None:
        lengths = {min(len(found), n) for found in self._words if len(found) >= min(SHORTEST_RUN, n)}
        for length in sorted(lengths, reverse=True):
            # A short question counts as a whole only; runs of that length out of longer ones would be small talk.
            chosen = [found if len(found) == length or length == n else () for found in self._words]
            runs = HashedWords(chosen).runs(length)
            first: dict[int, tuple[int, int]] = {}
            for value, owner, start in zip(
                runs.hashes.tolist(), runs.owners.tolist(), runs.starts.tolist(), strict=True
            ):
                first.setdefault(value, (owner, start))
            self._runs[length] = first

    def _by_run(self, chunk: list[list[str]]) -> dict[int, tuple[str, int, str]]:
        """Text of the chunk to its leak: the longest run, the first one in the text."""
        result: dict[int, tuple[str, int, str]] = {}
        hashed = HashedWords(chunk) if self._runs else None
        for length, known in self._sorted.items():
            assert hashed is not None
            runs = hashed.runs(length)
            places = np.minimum(np.searchsorted(known, runs.hashes), len(known) - 1)
            for hit in np.flatnonzero(known[places] == runs.hashes).tolist():
                owner, start = int(runs.owners[hit]), int(runs.starts[hit])
                twin, place = self._runs[length][int(runs.hashes[hit])]
                shared = chunk[owner][start : start + length]
                if owner not in result and tuple(shared) == self._words[twin][place : place + length]:
                    result[owner] = ("leak_ngram", twin, " ".join(shared))
        return result


def _swappable(bare: tuple[str, ...]) -> bool:
    return NUMBER in bare and sum(word != NUMBER for word in bare) >= SHORTEST_SKELETON


def _first_of(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    first: dict[tuple[str, ...], int] = {}
    for index, key in enumerate(keys):
        if key:
            first.setdefault(key, index)
    return first
