"""cold_start: FILTERED + sft -> LoRA adapter.

Goes on training the SFT adapter on fewer than 100 chosen reasoning samples (METHODS B).

The choice is deterministic and says why: verified (the answer was checked, its calls survived the loss filter), varied
(one template after the other) and short (the shortest reasoning of each template first, since paper B rewards 14 to 100
words).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from agentflow.config import Frozen, LocalFile
from agentflow.errors import InputError
from agentflow.rendering import PromptConfig
from agentflow.rewards.parts import count_words
from agentflow.training.config import SupervisedSettings


class ColdStartConfig(Frozen):
    """Which samples, and how they are trained on."""

    n_samples: int = Field(64, ge=1, lt=100)
    # Fewer than 100 (paper B [P]).
    min_words: int = Field(14, ge=0)
    max_words: int = Field(100, ge=1)
    # Words of reasoning without calls; paper B's bounds of its length reward [P].
    review: Annotated[Path | None, LocalFile()] = None
    # A review file (training.review) whose accepted and edited rows are trained on, in its order, instead of a choice.
    samples: Annotated[Path | None, LocalFile()] = None
    # A file of one's own samples (training.own_samples): all of them, in its order, instead of a choice.
    error_recovery_share: float = Field(0.0, ge=0, le=1)
    # Share of the samples in which a calculator call is first made wrongly, refused, and then made right
    # (training.recovery). The wrong call and its result carry no loss, the right one does [O].
    prompt: PromptConfig = PromptConfig()
    settings: SupervisedSettings = SupervisedSettings()

    @model_validator(mode="after")
    def _reviewed_rows_stay_as_they_are(self) -> ColdStartConfig:
        if self.review is not None and self.error_recovery_share:
            raise ValueError(
                f"error_recovery_share {self.error_recovery_share} would change rows of the review file; set it to 0 "
                "or train without a review"
            )
        if self.review is not None and self.samples is not None:
            raise ValueError("review and samples both say what is trained on; give one of them")
        return self


def choose(rows: Sequence[dict[str, Any]], config: ColdStartConfig) -> list[dict[str, Any]]:
    """Chosen samples in training order, each {"id", "template", "words", "why"}.

    Raises InputError if no row qualifies.
    """
    by_group: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        words = count_words(row["reasoning"])
        if row["decision"] in ("kept", "some_calls_kept") and config.min_words <= words <= config.max_words:
            by_group[row["template"] or row["kind"]].append((words, row["id"]))
    if not by_group:
        raise InputError(
            f"none of {len(rows)} rows has kept calls and {config.min_words} to {config.max_words} words of reasoning; "
            "loosen cold_start.min_words / max_words or look at the loss filter's yield"
        )
    queues = [sorted(by_group[group]) for group in sorted(by_group)]
    names = sorted(by_group)
    chosen: list[dict[str, Any]] = []
    for place in range(max(len(queue) for queue in queues)):
        for name, queue in zip(names, queues, strict=True):
            if place < len(queue) and len(chosen) < config.n_samples:
                words, row_id = queue[place]
                rank = f"number {place + 1} of {len(queue)} by length in {name!r} ({words} words)"
                why = f"calls kept by the loss filter; {rank}"
                chosen.append({"id": row_id, "template": name, "words": words, "why": why})
    return chosen
