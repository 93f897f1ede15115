"""The options of data hygiene."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentflow.config import Frozen
from agentflow.sources.file_sources import FileSource


class HygieneConfig(Frozen):
    """Which training questions are left out because another question says the same.

    Of real data sets only: generated questions are number swaps of each other by construction. Evaluation questions
    (splits other than `train`) are never dropped here, only looked for.
    """

    on: bool = True
    # False: exact duplicates still go, nothing else is looked for.
    ngram: int | None = Field(default=13, ge=5, le=50)
    # Words in a row shared with an evaluation question that make a leak (13: Brown et al. 2020, appendix C [D]). An
    # evaluation question of 8 to n-1 words counts as a whole. None: off.
    number_swap: bool = True
    # An evaluation question with other numbers is a leak [O].
    near_duplicate: float | None = Field(default=0.8, ge=0.5, le=1.0)
    # Jaccard similarity of word pairs at which a question goes, also one like an evaluation question [O]. None: off.
    against: tuple[Annotated[FileSource, Field(discriminator="kind")], ...] = ()
    # Further evaluation sets that training must not hold: only read, never asked. All their questions count.
