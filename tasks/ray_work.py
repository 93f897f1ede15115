"""Ray actors for work with models: loss scoring and answering. Each loads its model once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from agentflow.access import Access
from agentflow.progress import Progress
from agentflow.stages.evaluate import EvaluateConfig
from agentflow.stages.loss_filter import LossFilterConfig, scorer_input, shared_prefix


@ray.remote(max_restarts=0, max_task_retries=0)
class ScoringActor:
    """Loss scoring with one copy of the base model."""

    def __init__(self, base: str, config: LossFilterConfig) -> None:
        from agentflow.models.loading import load_model, load_tokenizer
        from agentflow.models.scoring import LossScorer

        self._config = config
        self._tokenizer = load_tokenizer(Path(base))
        self._scorer = LossScorer(load_model(Path(base)), self._tokenizer, shared_prefix(config))

    def plan(self, rows: list[dict[str, Any]]) -> list[list[str]]:
        """Ids of the rows of each batch, composed from all rows at once (P5)."""
        from agentflow.models.scoring import make_batches

        return [[pair.id for pair in batch] for batch in make_batches(self._pairs(rows), self._config.token_budget)]

    def score(self, rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, int]]:
        """Losses (plain, called, common tokens) of one planned batch, by row id."""
        losses = self._scorer.score(self._pairs(rows))
        return {loss.id: (loss.plain, loss.called, loss.n_common) for loss in losses}

    def _pairs(self, rows: list[dict[str, Any]]) -> list[Any]:
        from agentflow.models.scoring import make_pair

        return [make_pair(row["id"], *scorer_input(row, self._config), self._tokenizer) for row in rows]


@ray.remote(max_restarts=0, max_task_retries=0)
class AnsweringActor:
    """Answers questions with any adapter on one base model."""

    def answer(
        self,
        rows: list[dict[str, Any]],
        config: EvaluateConfig,
        base: str,
        adapter: str | None,
        access: Access,
        batch_size: int,
        progress: str,
    ) -> list[Any]:
        """Rollouts of `rows` in order (records.Rollout)."""
        from agentflow.models.answering import answer_questions

        live = Progress(Path(progress), "questions")
        live.update(0, len(rows))
        return answer_questions(
            rows,
            config,
            Path(base),
            Path(adapter) if adapter else None,
            access,
            batch_size=batch_size,
            on_batch=lambda done: live.update(done, len(rows)),
        )
