"""Ray actors for work with models: loss scoring and answering. Each loads its model once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import ray

from agentflow.access import Access
from agentflow.clock import recording
from agentflow.stages.evaluate import EvaluateConfig
from agentflow.stages.loss_filter import LossFilterConfig, RowScore
from tasks.keys import load_secrets

Device = Literal["cpu", "cuda"]


@ray.remote(max_restarts=0, max_task_retries=0)
class ScoringActor:
    """Loss scoring with one copy of the base model."""

    def __init__(self, base: str, config: LossFilterConfig, device: Device) -> None:
        import torch

        from agentflow.models.filtering import RowScorer
        from agentflow.models.loading import load_model, load_tokenizer

        model = load_model(Path(base), device=device, dtype=getattr(torch, config.precision))
        self._scorer = RowScorer(model, load_tokenizer(Path(base)), config)

    def plan(self, rows: list[dict[str, Any]]) -> tuple[list[list[list[str]]], dict[str, RowScore]]:
        """Ids of the rows of each batch of each shard, and what cannot be scored (models.filtering.Plan)."""
        plan = self._scorer.plan(rows)
        return plan.shards, plan.refused

    def score(self, shard: list[list[dict[str, Any]]]) -> dict[str, RowScore]:
        """Scores of the rows of one planned shard [batches][rows], by row id."""
        return self._scorer.score(shard)


@ray.remote(max_restarts=0, max_task_retries=0)
class AnsweringActor:
    """Answers batches of questions with any adapter on one base model; keeps the last one it was asked for."""

    def __init__(self, secrets: dict[str, str]) -> None:
        load_secrets(secrets)
        self._model: Any = None

    def answer(
        self,
        batch: list[dict[str, Any]],
        config: EvaluateConfig,
        base: str,
        adapter: str | None,
        access: Access,
        device: Device,
        progress: str,
    ) -> list[Any]:
        """Rollouts of a batch of rows, in order (records.Rollout)."""
        from agentflow.models.answering import AnsweringModel

        named = Path(base), Path(adapter) if adapter else None
        if self._model is None or self._model.named != named:
            self._model = None  # the one before makes room first
            self._model = AnsweringModel(*named, device)
        with recording(Path(progress)):
            return self._model.answer(batch, config, access)
