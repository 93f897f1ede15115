"""The loss filter's scorer: rows of TOOL_TRACES in, `RowScore` out. What the Ray actor runs, and a REPL on ten rows.

scorer = RowScorer(load_model(base), load_tokenizer(base), LossFilterConfig())
plan = scorer.plan(rows)                       # batches, and rows that cannot be scored
scores = scorer.score([[by_id[i] for i in batch] for shard in plan.shards for batch in shard])
outcomes = decide(rows, {**plan.refused, **scores}, config)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentflow.errors import UnscorableRow
from agentflow.models.scoring import Loss, LossScorer, Trial, TrialRule, make_batches, make_trial
from agentflow.stages.loss_filter import (
    LossFilterConfig,
    RowScore,
    Score,
    empty_result,
    scorer_input,
    shared_prefix,
)

SHARD_ROWS = 32
# Rows, about, that are handed to a worker and committed together.


@dataclass(frozen=True)
class Plan:
    """What is scored together, by row id."""

    shards: list[list[list[str]]]
    # [shards][batches of a shard][rows of a batch]
    refused: dict[str, RowScore]
    # Rows that cannot be scored.


class RowScorer:
    """Scores rows with one model under one configuration."""

    def __init__(self, model: Any, tokenizer: Any, config: LossFilterConfig) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._rule = TrialRule(config.weighting, config.granularity, empty_result(config))
        self._scorer = LossScorer(model, tokenizer, shared_prefix(config))

    def plan(self, rows: Sequence[dict[str, Any]]) -> Plan:
        """Batches composed from all rows at once (P5), and shards composed of batches."""
        trials, refused = [], {}
        for row in rows:
            try:
                trial = self.trial(row)
                self._scorer.check(trial)
            except UnscorableRow as error:
                refused[row["id"]] = RowScore(refused=(error.kind, str(error)))
            else:
                trials.append(trial)
        shards: list[list[list[str]]] = []
        for batch in make_batches(trials, self._config.token_budget):
            if not shards or sum(len(ids) for ids in shards[-1]) + len(batch) > SHARD_ROWS:
                shards.append([])
            shards[-1].append([trial.id for trial in batch])
        return Plan(shards, refused)

    def score(self, batches: Sequence[Sequence[dict[str, Any]]]) -> dict[str, RowScore]:
        """Scores by row id. Raises UnscorableRow for a row that the plan refused."""
        scores: dict[str, RowScore] = {}
        for batch in batches:
            trials = [self.trial(row) for row in batch]
            for trial, losses in zip(trials, self._scorer.score_trials(trials), strict=True):
                scores[trial.id] = self._row_score(losses)
        return scores

    def trial(self, row: dict[str, Any]) -> Trial:
        """What is compared for `row`. Raises UnscorableRow."""
        return make_trial(row["id"], *scorer_input(row, self._config), self._tokenizer, self._rule)

    def _row_score(self, losses: Sequence[Loss]) -> RowScore:
        if self._config.granularity == "per_call":
            return RowScore(calls=tuple(_score(loss) for loss in losses))
        (whole,) = losses
        return RowScore(_score(whole), tuple(_score(loss) if loss else None for loss in whole.calls))


def _score(loss: Loss) -> Score:
    return Score(loss.plain, loss.called, loss.n_common, loss.empty)
