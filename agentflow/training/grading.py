"""Rollouts in, rollouts with the parts of their reward out: what GRPO asks between sampling and learning.

The reward itself is computed in a killable process (`rewards.process`); a model that says how close an answer is runs
here, in batches. A rollout that could not be graded gets a typed failure, as one whose tool failed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentflow.errors import GraderFailed
from agentflow.models.similarity import Similarity, load_similarity
from agentflow.records import Rollout
from agentflow.rewards.composite import CompositeConfig
from agentflow.rewards.contract import RewardConfig, gold_of
from agentflow.rewards.grading import FAILURES, GraderSetup, Verdict, question_part
from agentflow.rewards.process import Grader
from agentflow.stages.grpo import GraderConfig, GrpoConfig
from agentflow.toolset import syntax_for

JUDGED_FROM = 100
# Rollouts; before that the share of failures is taken of this many, so that one of the first few ends nothing.


@dataclass(frozen=True)
class Graded:
    """A rollout after grading."""

    rollout: Rollout
    # As sampled; with the failure of its grading, if that failed.
    parts: dict[str, float] | None
    # Named parts; None for a rollout that failed in any way.
    answer: str | None
    # The answer that was read.


class RolloutGrader:
    """Grades the rollouts of one training worker."""

    def __init__(self, config: GrpoConfig, schemas: Sequence[dict[str, Any]]) -> None:
        """`schemas`: OpenAI function objects of the tools. Raises InputError if a similarity model cannot be loaded."""
        syntax = syntax_for(config.prompt.syntax)
        setup = GraderSetup(
            reward=config.reward,
            syntax=syntax.name,
            primary=syntax.primary,
            turn=config.generation.single_turn,
            schemas=list(schemas),
        )
        self._grader = Grader(setup, config.grader.timeout_s)
        self._similarity = _similarity(config)

    def __enter__(self) -> RolloutGrader:
        self._grader.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._grader.__exit__(None, None, None)

    def grade(self, rollouts: Sequence[Rollout], questions: Sequence[dict[str, Any]]) -> list[Graded]:
        """Every rollout with its parts; `questions` are their rows in QUESTIONS columns, one for each."""
        requests = [
            {"text": rollout.text, "observations": [result.text for result in rollout.results]} for rollout in rollouts
        ]
        places = [i for i, rollout in enumerate(rollouts) if rollout.failure is None]
        close: dict[int, float] = {}
        verdicts: dict[int, Verdict] = {}
        if self._similarity is not None:
            read = {i: self._grader.ask(requests[i]) for i in places}
            verdicts = {i: verdict for i, verdict in read.items() if verdict.failure is not None}
            close = self._closeness({i: verdict.answer for i, verdict in read.items()}, questions)
        for i in places:
            if i not in verdicts:
                asked = {**requests[i], "question": question_part(questions[i]), "similarity": close.get(i)}
                verdicts[i] = self._grader.ask(asked)
        return [_graded(rollout, verdicts.get(i, Verdict())) for i, rollout in enumerate(rollouts)]

    def _closeness(self, answers: dict[int, str | None], questions: Sequence[dict[str, Any]]) -> dict[int, float]:
        """The best similarity of each answer to its gold answer or an alias."""
        assert self._similarity is not None
        pairs: list[tuple[str, str]] = []
        owners: list[int] = []
        for i, answer in answers.items():
            gold = gold_of(questions[i])
            if answer is None or gold.calls:
                continue
            pairs += [(accepted, answer) for accepted in (gold.answer, *gold.aliases)]
            owners += [i] * (len(pairs) - len(owners))
        best: dict[int, float] = {}
        for i, value in zip(owners, self._similarity(pairs), strict=True):
            # Not a number stays one: the grader refuses it.
            best[i] = value if math.isnan(value) else max(value, best.get(i, 0.0))
        return best


def _similarity(config: GrpoConfig) -> Similarity | None:
    reward = config.reward
    if not isinstance(reward, CompositeConfig) or reward.model_similarity is None:
        return None
    assert config.similarity_model is not None, "GrpoConfig refuses a reward without the model it needs"
    return load_similarity(reward.model_similarity, config.similarity_model)


def _graded(rollout: Rollout, verdict: Verdict) -> Graded:
    if verdict.failure is not None:
        rollout = dataclasses.replace(rollout, failure=verdict.failure)
    return Graded(rollout, verdict.parts, verdict.answer)


# ---------------------------------------------------------------- facts for the manifest
def reward_facts(config: GrpoConfig) -> dict[str, Any]:
    """Which reward a training used: kind, parts with weight and range, and what said how close an answer is."""
    reward: RewardConfig = config.reward
    facts: dict[str, Any] = {
        "kind": config.reward.kind,
        "parts": {part.name: {"weight": part.weight, "range": [part.low, part.high]} for part in reward.parts()},
    }
    if isinstance(reward, CompositeConfig):
        facts["similarity"] = reward.answer_similarity
    if config.similarity_model is not None:
        facts["similarity_model"] = config.similarity_model.model_dump(mode="json")
    return facts


def failures(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Of the ROLLOUTS rows: how many could not be graded, and how many were to be (their tools had not failed)."""
    failed = sum(row["failure"] in FAILURES for row in rows)
    return failed, failed + sum(row["failure"] is None for row in rows)


def failure_counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same for the manifest, with the rate [0, 1]."""
    failed, asked = failures(rows)
    return {"grader_failures": failed, "grader_failure_rate": failed / asked if failed else 0.0}


def stop_if_failing(failed: int, asked: int, config: GraderConfig, judged_from: int = JUDGED_FROM) -> None:
    """Raise GraderFailed if more than the allowed share of `asked` (or of `judged_from`, if it is more) failed."""
    if failed > config.max_failure_rate * max(asked, judged_from):
        raise GraderFailed(
            f"{failed} of {asked} rollouts could not be graded, allowed are {config.max_failure_rate:.1%}; the log "
            "says of each why. Raise grpo.grader.timeout_s if the machine is slow, or look at these completions: the "
            "reward breaks on them"
        )
