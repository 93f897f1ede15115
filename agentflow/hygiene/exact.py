"""Exact twins: questions that are the same but for case, width of characters and white space.

In: texts and the order in which they have a right to stay. Out: for every text the one that stays in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentflow.hygiene.text import Flags, Hashes, Indices, text_hash
from agentflow.sources.problems import normalise_question


def precedence(evaluation: Flags, digests: Hashes) -> Indices:
    """The texts in the order in which they have a right to stay [number of texts]: evaluation questions first, then by
    content. `digests` are hashes of the rows' whole content, so that their order in a file decides nothing.
    """
    return np.lexsort((digests, ~evaluation)).astype(np.int64)


def exact_twins(texts: Sequence[str], order: Indices) -> Indices:
    """For every text the index of its twin that stands first in `order`, -1 for a text that stays [number of texts].

    Source: ours. Linear but for one sort of hashes; equal hashes are compared by text.
    """
    hashes = np.fromiter((text_hash(normalise_question(text)) for text in texts), dtype=np.uint64, count=len(texts))
    twins = np.full(len(texts), -1, dtype=np.int64)
    ranked = order[np.argsort(hashes[order], kind="stable")]
    sorted_hashes = hashes[ranked]
    for position in np.flatnonzero(sorted_hashes[1:] == sorted_hashes[:-1]) + 1:
        index, before = int(ranked[position]), int(ranked[position - 1])
        first = int(twins[before]) if twins[before] >= 0 else before
        if normalise_question(texts[index]) == normalise_question(texts[first]):
            twins[index] = first
    return twins
