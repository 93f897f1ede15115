"""Question rows in, the same rows without leaks and near duplicates out; what went carries its reason and its twin.

    evaluation  "Mia has 48 clips and buys 3 boxes of 12 more clips. How many clips has she in all?"
    training    "Mia has 20 clips and buys 5 boxes of 6 more clips. How many clips has she in all?"
    ->          dropped, leak_number_swap: evaluation question gsm8k-… (test) with other numbers

Decided in this order: `leak_exact`, `leak_ngram`, `leak_number_swap`, then similarity: `leak_near` (to an evaluation
question) and `near_duplicate` (to a training question that stays). Exact duplicates are gone before, see `sources`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentflow.arrow_rows import Picked
from agentflow.hygiene.config import HygieneConfig
from agentflow.hygiene.exact import precedence
from agentflow.hygiene.leaks import EvaluationIndex
from agentflow.hygiene.near import near_twins
from agentflow.hygiene.text import Flags, Hashes

REASONS = ("leak_exact", "leak_ngram", "leak_number_swap", "leak_near", "duplicate", "near_duplicate")
# Every reason for which a question is dropped because of another one, gravest first.


@dataclass(frozen=True)
class Finding:
    """A training question to drop."""

    index: int
    reason: str
    # One of REASONS.
    twin: int
    # The question that stays.
    shared: str = ""
    # Words in common, for leaks that are found by words.
    similarity: float | None = None
    # Jaccard similarity of word pairs, for near ones.


def find(texts: Sequence[str], evaluation: Flags, digests: Hashes, config: HygieneConfig) -> list[Finding]:
    """The training questions to drop, at most one finding each, ascending by index.

    `texts` are all questions [n], `evaluation` says which are only looked for [n], `digests` are hashes of the rows'
    content that settle who stays [n]. Linear in n; besides the texts about 400 bytes of memory each.
    """
    order = precedence(evaluation, digests)
    findings: dict[int, Finding] = {}
    looked_for = order[: int(evaluation.sum())]
    training = Picked(texts, np.flatnonzero(~evaluation))
    if len(looked_for) and (config.ngram is not None or config.number_swap):
        known = EvaluationIndex(Picked(texts, looked_for), n=config.ngram, number_swap=config.number_swap)
        for leak in known.check(training):
            index = int(training.places[leak.index])
            findings[index] = Finding(index, leak.reason, int(looked_for[leak.twin]), shared=leak.shared)
    if config.near_duplicate is not None:
        gone = np.zeros(len(texts), dtype=bool)
        gone[list(findings)] = True
        for near in near_twins(texts, order[~gone[order]], evaluation, config.near_duplicate):
            reason = "leak_near" if evaluation[near.twin] else "near_duplicate"
            findings[near.index] = Finding(near.index, reason, near.twin, similarity=near.similarity)
    return [findings[index] for index in sorted(findings)]
