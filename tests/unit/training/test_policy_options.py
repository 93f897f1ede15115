"""GRPO's options in a real training of the tiny model: each changes what it says, and nothing becomes NaN."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from policy_jobs import GROUP, asked_for, groups_of, policy_job, rollouts_of
from safetensors.torch import load_file
from stopping import StopAt, Stopped

from agentflow.access import Access
from agentflow.errors import ToolFailure
from agentflow.models.loading import load_model
from agentflow.records import ToolResult
from agentflow.rewards.groups import group_advantages
from agentflow.stages.grpo import ToolFailureLimit
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.training.jobs import PolicyJob, TrainingSummary
from agentflow.training.policy import policy_arguments, train_policy
from agentflow.training.policy_options import HotSampling, ReferenceSettings
from agentflow.training.reference import ReferenceCallback, move_reference

NEVER = ToolFailureLimit(max_failed_share=1.0)


class BrokenCalculator(Calculator):
    """A calculator whose infrastructure is down."""

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        raise ToolFailure("the calculator's host is gone", kind="connection")


class BrokenAccess(Access):
    """Opens tools that are down."""

    @asynccontextmanager
    async def open_toolbox(self, *arguments: Any, **options: Any) -> AsyncIterator[ToolBox]:
        yield ToolBox([BrokenCalculator()])


@pytest.fixture(scope="module")
def wrong(taught) -> Path:
    """A model whose usual answer is wrong."""
    return taught


@pytest.fixture(scope="module")
def right(taught, tmp_path_factory) -> Path:
    """A model whose usual answer is right."""
    return asked_for(taught, tmp_path_factory.mktemp("right"), "2")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    assert first.keys() == second.keys()
    return all((first[name] - second[name]).abs().max() <= tolerance for name in first)


def logged(summary: TrainingSummary, name: str) -> list[Any]:
    return [entry[name] for entry in summary.log if name in entry]


# ---------------------------------------------------------------- failed tools
def test_a_step_whose_groups_are_all_skipped_changes_nothing(wrong, tmp_path):
    # Nearly greedy: every rollout calls, and every call fails. An entropy bonus would move any token that has loss.
    changes: dict[str, Any] = {"access": BrokenAccess, "tool_failures": NEVER, "entropy_bonus": 1.0}
    job = policy_job(wrong, tmp_path, generation={"temperature": 0.05}, **changes)
    summary = train_policy(job)
    assert summary.extra["groups_skipped"] == summary.extra["groups"] == 4
    assert summary.extra["adapter_before"] == summary.extra["adapter_after"]
    assert all(math.isfinite(loss) for loss in logged(summary, "loss"))
    assert logged(summary, "grad_norm") == [0.0, 0.0]
    json.dumps(summary.model_dump(mode="json"), allow_nan=False)


def test_a_group_with_too_few_left_is_skipped_and_its_neighbour_trained_on(wrong, tmp_path):
    changes: dict[str, Any] = {"access": BrokenAccess, "tool_failures": NEVER, "generation": {"max_new_tokens": 14}}
    job = policy_job(wrong, tmp_path, min_group=GROUP, steps=3, **changes)
    summary = train_policy(job)
    groups = groups_of(rollouts_of(job)).values()
    hit = [group for group in groups if any(row["status"] == "failed" for row in group)]
    assert hit and summary.extra["groups_skipped"] == len(hit)
    assert any(row["status"] == "ok" for group in hit for row in group), "rollouts that had not failed went with it"
    for group in groups:
        reason = "few_left" if group in hit else None
        assert {row["left_out"] for row in group} == {reason}
        assert {row["advantage"] is None for row in group} == {group in hit}
    assert all(math.isfinite(norm) for norm in logged(summary, "grad_norm"))


# ---------------------------------------------------------------- the reference
def reference_after(taught: Path, out: Path, **reference: Any) -> tuple[PolicyJob, TrainingSummary, dict, dict]:
    """Policy and reference of the last checkpoint of a training with a KL term."""
    job = policy_job(taught, out, beta=0.1, checkpoint_steps=1, reference=ReferenceSettings(**reference))
    summary = train_policy(job)
    checkpoint = out / "trainer" / "checkpoint-2"
    return job, summary, weights(checkpoint), weights(checkpoint / "ref")


def test_by_default_the_reference_stays_the_cold_start(wrong, tmp_path):
    job, summary, policy, reference = reference_after(wrong, tmp_path)
    assert equal(reference, weights(job.adapter)) and not equal(policy, reference)
    kl = logged(summary, "kl")
    assert kl[0] == pytest.approx(0.0, abs=1e-6) and kl[1] > 1e-6
    assert {path.name for path in job.adapter_out.iterdir() if path.is_dir()} == set(), (
        "what is published is the policy"
    )
    assert equal(weights(job.adapter_out), policy)


def test_a_synced_reference_follows_the_policy(wrong, tmp_path):
    _, summary, policy, reference = reference_after(wrong, tmp_path, sync_steps=1, mix=1.0)
    assert equal(reference, policy)
    assert logged(summary, "kl") == pytest.approx([0.0, 0.0], abs=1e-6), "it was the policy before each step"


def test_a_sync_mixes_policy_and_reference(wrong, tmp_path):
    job, _, policy, reference = reference_after(wrong, tmp_path, sync_steps=2, mix=0.25)
    start = weights(job.adapter)
    assert equal(reference, {name: 0.25 * policy[name] + 0.75 * start[name] for name in policy}, tolerance=1e-6)


def test_a_hard_reset_copies_the_policy_and_forgets_the_optimisers_moments(wrong, tmp_path):
    _, _, policy, reference = reference_after(wrong, tmp_path, reset_steps=2)
    assert equal(reference, policy)
    state = torch.load(tmp_path / "trainer" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert state["state"] == {}
    before = torch.load(tmp_path / "trainer" / "checkpoint-1" / "optimizer.pt", weights_only=True)
    assert before["state"]


def test_without_a_reference_a_reset_is_the_optimisers_alone(wrong):
    model = load_model(wrong / "base", adapter=wrong / "adapter", trainable=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.1)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    kept = [parameter.clone() for parameter in trained]
    callback = ReferenceCallback(ReferenceSettings(reset_steps=3))
    for step in (2, 3):
        assert optimiser.state
        callback.on_step_end(None, SimpleNamespace(global_step=step), None, model=model, optimizer=optimiser)
    assert not optimiser.state
    move_reference(model, 1.0)
    assert all((parameter == old).all() for parameter, old in zip(trained, kept, strict=True))


# ---------------------------------------------------------------- sampling
def test_dynamic_sampling_trains_on_groups_that_vary_and_counts_the_others(right, tmp_path):
    job = policy_job(right, tmp_path, generation={"temperature": 0.8}, dynamic_sampling=2)
    summary, rows = train_policy(job), rollouts_of(job)
    groups = groups_of(rows)
    equal_groups = [group for group in groups.values() if group[0]["left_out"] == "equal_rewards"]
    trained = [group for group in groups.values() if group[0]["left_out"] is None]
    assert equal_groups and trained and len(groups) > 4, "else nothing was drawn again"
    assert all(len({row["reward"] for row in group}) == 1 for group in equal_groups)
    assert all(len({row["reward"] for row in group}) > 1 for group in trained)
    extra = summary.extra
    assert (extra["groups"], extra["groups_equal"]) == (len(groups), len(equal_groups))
    assert extra["rollouts_left_out"] == GROUP * len(equal_groups)
    assert extra["calls"] == sum(row["n_calls"] for row in rows) > extra["calls_left_out"] > 0
    rewards = logged(summary, "reward")
    for step in range(2):
        seen = [row["reward"] for group in trained for row in group if row["step"] == step]
        assert not seen or rewards[step] == pytest.approx(sum(seen) / len(seen), abs=1e-4), "TRL saw these alone"


def test_hot_oversampling_draws_more_and_trains_on_the_most_varied(right, tmp_path):
    job = policy_job(right, tmp_path, hot=HotSampling(factor=2, temperature=1.6))
    summary, rows = train_policy(job), rollouts_of(job)
    assert policy_arguments(job).temperature == 1.6, "the loss's probabilities are those of the sampling"
    assert len(rows) == 2 * 2 * 2 * GROUP == summary.extra["rollouts"]
    for group in groups_of(rows).values():
        picked = [row for row in group if row["left_out"] is None]
        assert len(picked) == GROUP and len(group) == 2 * GROUP
        extremes = {min(row["reward"] for row in group), max(row["reward"] for row in group)}
        assert extremes <= {row["reward"] for row in picked}
        expected = group_advantages([row["reward"] for row in picked], GROUP)
        assert [row["advantage"] for row in picked] == pytest.approx(expected)
    assert summary.extra["rollouts_left_out"] == len(rows) // 2


def test_an_unsolved_question_is_trained_on_with_the_begin_of_its_solution_given(wrong, tmp_path):
    job = policy_job(wrong, tmp_path, steps=1, solution_prefix=0.5)
    questions = {row["id"]: row for row in load_from_disk(str(job.questions)).to_list()}
    summary, groups = train_policy(job), groups_of(rollouts_of(job))
    helped = [group for group in groups.values() if group[0]["given"]]
    assert len(helped) == summary.extra["groups_unsolved"] == 2 and len(groups) == 4
    for group in helped:
        for row in group:
            begun = row["completion"][: row["given"]]
            assert begun.startswith("<think>") and begun[7:] in questions[row["question_id"]]["rationale"]
            assert row["left_out"] is None and not row["prompt"].endswith(begun)
    mean = [row["reward"] for group in helped for row in group]
    assert logged(summary, "reward") == pytest.approx([sum(mean) / len(mean)], abs=1e-4), "TRL saw these alone"
    longest = max(logged(summary, "completions/max_length"))
    assert longest <= 40, "what was given is prompt: no token of it is among the completion's, which carry the loss"


# ---------------------------------------------------------------- weights and rewards
def test_a_questions_weight_scales_its_gradient(right, tmp_path):
    one_group = {"optimiser": {"accumulation": 1, "max_grad_norm": 1e6}, "steps": 1}
    plain_job = policy_job(right, tmp_path / "plain", **one_group)
    weighted_job = policy_job(right, tmp_path / "weighted", prompt_weighting="accuracy", **one_group)
    plain, weighted = train_policy(plain_job), train_policy(weighted_job)
    rows = rollouts_of(plain_job)
    share = sum(row["answer"] == "2" for row in rows) / len(rows)
    assert 0 < share < 1, "a question that is sometimes solved is what this test is about"
    weight = math.sqrt(share * (1 - share))
    assert logged(weighted, "grad_norm")[0] == pytest.approx(weight * logged(plain, "grad_norm")[0], rel=1e-4)
    advantages = [row["advantage"] for row in rollouts_of(weighted_job)]
    assert advantages == pytest.approx([weight * row["advantage"] for row in rows])


def test_questions_that_are_never_solved_have_no_weight(wrong, tmp_path):
    job = policy_job(wrong, tmp_path, prompt_weighting="accuracy")
    summary = train_policy(job)
    assert summary.extra["groups_with_variance"] > 0, "their rewards differ all the same"
    assert {row["advantage"] for row in rollouts_of(job)} == {0.0}
    assert summary.extra["adapter_before"] == summary.extra["adapter_after"]


@pytest.mark.parametrize(("rule", "model"), [("if_right", "right"), ("if_wrong", "wrong")])
def test_format_and_length_count_only_under_their_condition(request, tmp_path, rule, model):
    job = policy_job(request.getfixturevalue(model), tmp_path, steps=1, intermediate_rewards=rule)
    train_policy(job)
    rows = rollouts_of(job)
    parts = [json.loads(row["rewards"]) for row in rows]
    # The usual answer is right for the one model and wrong for the other; the rest wrote none that can be read.
    counted = [row["answer"] == "2" for row in rows]
    assert any(counted) and {row["answer"] for row in rows} == {"2", None}
    for part, row, counts in zip(parts, rows, counted, strict=True):
        assert counts or part["format"] == part["length"] == 0.0
        assert row["reward"] == pytest.approx(sum(part.values()))
    assert any(part["format"] for part in parts)


# ---------------------------------------------------------------- going on
def test_a_stopped_training_with_every_option_goes_on_as_if_it_had_not_been(right, tmp_path):
    options: dict[str, Any] = {
        "steps": 5,
        "checkpoint_steps": 1,
        "optimiser": {"schedule": "cosine", "warmup_ratio": 0.2, "weight_decay": 0.1},
        "beta": 0.1,
        "reference": ReferenceSettings(sync_steps=2, mix=0.5, reset_steps=3),
        "dynamic_sampling": 1,
        "solution_prefix": 0.3,
        "hot": HotSampling(factor=2),
        "prompt_weighting": "accuracy",
        "intermediate_rewards": "if_right",
    }
    whole_job, job = (
        policy_job(right, tmp_path / "whole", **options),
        policy_job(right, tmp_path / "stopped", **options),
    )
    whole = train_policy(whole_job)
    for stop in (2, 4):
        with pytest.raises(Stopped):
            train_policy(job, [StopAt(stop)])
    resumed = train_policy(job, [StopAt(3)])  # it would stop again if it began before step 4
    for name in ("loss", "reward", "kl", "learning_rate", "grad_norm"):
        assert logged(resumed, name) == pytest.approx(logged(whole, name), abs=1e-5), name
    assert max(logged(whole, "kl")) > 1e-6 and max(logged(whole, "grad_norm")) > 0
    assert rollouts_of(job) == rollouts_of(whole_job)
    assert resumed.extra == {**whole.extra, "adapter_after": resumed.extra["adapter_after"]}
