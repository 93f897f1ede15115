"""The advantage that is recorded is the one that TRL trains with, and a rollout without one carries no loss there."""

from __future__ import annotations

from typing import Any

import pytest
from policy_jobs import asked_for, policy_job, rollouts_of

from agentflow.training.policy import train_policy
from agentflow.training.policy_trainer import PolicyTrainer

# Every sample of a step, in the order of its rollouts: advantage, tokens with loss.
Seen = list[tuple[float, int]]


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """What the trainer computes from the rollouts, while it really trains."""
    samples: Seen = []
    scored = PolicyTrainer._generate_and_score_completions

    def spy(self: PolicyTrainer, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = scored(self, inputs)
        tokens = (output["completion_mask"] * output["tool_mask"]).sum(1)
        samples.extend(zip(output["advantages"].tolist(), tokens.tolist(), strict=True))
        return output

    monkeypatch.setattr(PolicyTrainer, "_generate_and_score_completions", spy)
    return samples


@pytest.mark.parametrize("weighting", ["none", "accuracy"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_recorded_advantages_are_those_that_are_trained_with(taught, tmp_path, seen, scale, weighting):
    right = asked_for(taught, tmp_path / "right", "2")
    job = policy_job(right, tmp_path / "out", scale_rewards=scale, prompt_weighting=weighting)
    train_policy(job)
    rows = rollouts_of(job)
    assert [row["advantage"] for row in rows] == pytest.approx([advantage for advantage, _ in seen], abs=1e-5)
    assert len({round(advantage, 3) for advantage, _ in seen}) > 2 and all(tokens for _, tokens in seen)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_completion_that_was_cut_off_is_recorded_without_advantage_but_is_in_the_mean(taught, tmp_path, seen, scale):
    generation = {"max_new_tokens": 30, "temperature": 1.5}
    job = policy_job(taught, tmp_path, steps=3, scale_rewards=scale, mask_truncated=True, generation=generation)
    summary = train_policy(job)
    rows = rollouts_of(job)
    cut = [row["left_out"] == "truncated" for row in rows]
    assert 0 < sum(cut) < len(rows) and summary.extra["rollouts_left_out"] == sum(cut)
    for row, without, (advantage, tokens) in zip(rows, cut, seen, strict=True):
        assert (row["advantage"] is None) == without == (tokens == 0)
        assert without or row["advantage"] == pytest.approx(advantage, abs=1e-5)
