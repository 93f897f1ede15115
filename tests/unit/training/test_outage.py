"""Tools that are down: the training ends with their failure and goes on when they are back; a step without a sample
moves no weight and says nothing about entropy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from policy_jobs import policy_job, rollouts_of
from stopping import history
from transformers import TrainerCallback

from agentflow.access import Access
from agentflow.errors import ToolFailure, ToolsUnavailable
from agentflow.models.loading import load_model, load_tokenizer
from agentflow.records import ToolResult
from agentflow.stages.grpo import ToolFailureLimit
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.training.outage import stop_if_tools_are_down, tool_failures
from agentflow.training.policy import adapter_digest, policy_arguments, train_policy
from agentflow.training.policy_trainer import WEIGHT, PolicyTrainer

DOWN = {"now": False}
# Whether the service behind the tool is down.


class RemoteCalculator(Calculator):
    """A calculator behind a service that may be down."""

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        if DOWN["now"]:
            raise ToolFailure("the calculator's host is gone", kind="connection")
        return await super().call(arguments)


class RemoteAccess(Access):
    """Opens it."""

    @asynccontextmanager
    async def open_toolbox(self, *arguments: Any, **options: Any) -> AsyncIterator[ToolBox]:
        yield ToolBox([RemoteCalculator()])


class DownFrom(TrainerCallback):
    """The service is down from step `first` on; keeps the weights' hash before every step."""

    def __init__(self, first: int, last: int = 10_000) -> None:
        self._steps = range(first, last)
        self.weights: list[str] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        self.weights.append(adapter_digest(now["model"]))
        DOWN["now"] = state.global_step in self._steps


@pytest.fixture(autouse=True)
def _up_again():
    yield
    DOWN["now"] = False


# ---------------------------------------------------------------- the limit
def test_an_outage_ends_the_training_and_it_goes_on_when_the_tools_are_back(taught, tmp_path):
    changes: dict[str, Any] = {"steps": 5, "checkpoint_steps": 1, "access": RemoteAccess}
    whole_job = policy_job(taught, tmp_path / "whole", **changes)
    whole = train_policy(whole_job)
    limit = ToolFailureLimit(steps=2)
    job = policy_job(taught, tmp_path / "out", tool_failures=limit, **changes)
    down = DownFrom(2)
    with pytest.raises(ToolsUnavailable, match=r"\(connection \d+\) of steps 2 to 3; allowed are 50% in 2 steps run"):
        train_policy(job, [down])
    assert len(down.weights) == 4 and not job.adapter_out.exists() and not (job.out / "summary.json").exists()
    DOWN["now"] = False
    resumed = train_policy(job)
    assert resumed.steps == 5 and resumed.extra["rollouts_failed"] > 0, "the first step of the outage is behind"
    assert {row["step"] for row in rollouts_of(job) if row["status"] == "failed"} == {2}
    assert history(resumed, "loss")[:2] == [pytest.approx(loss, abs=1e-5) for loss in history(whole, "loss")[:2]]


def test_a_training_shorter_than_the_limit_ends_too(taught, tmp_path):
    job = policy_job(taught, tmp_path, steps=1, access=RemoteAccess)
    with pytest.raises(ToolsUnavailable, match="of 8 rollouts"):
        train_policy(job, [DownFrom(0)])


def rows(step: int, failed: int, of: int, failure: str = "timeout") -> list[dict[str, Any]]:
    return [{"step": step, "failure": failure if i < failed else None} for i in range(of)]


@pytest.mark.parametrize(
    ("failed", "ends"), [((5, 5, 5), True), ((5, 4, 5), False), ((8, 8, 0), False), ((8, 8, 8), True)]
)
def test_every_one_of_the_steps_must_be_above_the_limit(failed, ends):
    counts = [tool_failures([r for i, n in enumerate(failed) for r in rows(i, n, 8)], range(3))]
    if ends:
        n = sum(failed)
        with pytest.raises(ToolsUnavailable, match=rf"failed in {n} of 24 rollouts \(timeout {n}\)"):
            stop_if_tools_are_down(counts, ToolFailureLimit())
    else:
        stop_if_tools_are_down(counts, ToolFailureLimit())


def test_all_workers_count_together_and_a_graders_failures_are_not_the_tools():
    first, second = tool_failures(rows(4, 8, 8), [4]), tool_failures(rows(4, 0, 8), [4])
    assert first == {4: (8, Counter(timeout=8))}
    stop_if_tools_are_down([first, second], ToolFailureLimit())
    with pytest.raises(ToolsUnavailable):
        stop_if_tools_are_down([first, second], ToolFailureLimit(max_failed_share=0.4))
    stop_if_tools_are_down([tool_failures(rows(4, 8, 8, "grader_timeout"), [4])], ToolFailureLimit())


# ---------------------------------------------------------------- steps and batches without a sample
def test_a_step_whose_groups_are_all_skipped_moves_no_weight(taught, tmp_path):
    job = policy_job(
        taught, tmp_path, steps=4, min_group=4, access=RemoteAccess, generation={"temperature": 0.7},
        optimiser={"weight_decay": 0.1}, tool_failures=ToolFailureLimit(max_failed_share=1.0),
    )  # fmt: skip
    watch = DownFrom(2, 3)
    summary = train_policy(job, [watch])
    skipped = [row for row in rollouts_of(job) if row["step"] == 2]
    assert all(row["left_out"] == "few_left" for row in skipped if row["status"] == "ok")
    assert any(row["status"] == "failed" for row in skipped) and summary.extra["groups_skipped"] == 2
    before, after_first, after_second, after_skipped = watch.weights
    assert before != after_first != after_second == after_skipped != summary.extra["adapter_after"]
    entropy = {entry["step"]: entry["entropy"] for entry in summary.log if "reward" in entry}
    assert entropy[3] is None and entropy[4] > 0


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_batch_without_loss_is_in_no_mean_of_entropy(taught, tmp_path, beta):
    """The same completions in both groups: masking one of them leaves the mean over the tokens with loss as it is."""
    entropies = [_entropy(taught, tmp_path / name, masked, beta) for name, masked in (("a", False), ("b", True))]
    assert entropies[0] > 0 and entropies[1] == pytest.approx(entropies[0], abs=1e-5)


def _entropy(taught: Path, out: Path, masked: bool, beta: float) -> float:
    # TRL shuffles a step's samples over its batches: batches of one leave whole ones without loss.
    job = policy_job(taught, out, steps=1, beta=beta, optimiser={"batch_size": 1, "accumulation": 8})
    torch.manual_seed(0)

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        places = range(len(prompts))
        return {
            "prompt_ids": [[5, 6, 7]] * len(prompts),
            "completion_ids": [[10 + i % 4, 11, 12] for i in places],
            "logprobs": [[0.0] * 3] * len(prompts),
            "env_mask": [[0 if masked and i >= 4 else 1] * 3 for i in places],
            "reward": [float(i % 4) for i in places],
            WEIGHT: [1.0] * len(prompts),
        }

    def reward(prompts: Any, completions: Any, reward: list[float], **_: Any) -> list[float]:
        return reward

    arguments = policy_arguments(job)
    arguments.reward_weights, arguments.save_strategy, arguments.report_to = None, "no", []
    trainer = PolicyTrainer(
        model=load_model(job.base, adapter=job.adapter, trainable=True),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]),
        processing_class=load_tokenizer(job.base),
        reward_funcs=[reward],
        rollout_func=rollout_func,
    )
    trainer.train()
    return next(entry["entropy"] for entry in trainer.state.log_history if "entropy" in entry)
