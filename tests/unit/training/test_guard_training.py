"""The collapse guard in a real GRPO run: it warns, stops the stage, or brings the last good weights back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from taught_model import PROMPT, policy_job
from transformers import TrainerCallback

from agentflow.errors import PolicyCollapsed
from agentflow.models.settings import GenerationConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.cycles import train_in_cycles
from agentflow.training.guard import GuardConfig
from agentflow.training.jobs import PolicyJob, TrainingSummary
from agentflow.training.policy import train_policy
from agentflow.training.policy_options import CycleSettings


def job_for(
    taught: Path,
    out: Path,
    learning_rate: float,
    *,
    steps: int = 6,
    cycles: CycleSettings = CycleSettings(),  # noqa: B008
    **guard: Any,
) -> PolicyJob:
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=40),
        steps=steps,
        cycles=cycles,
        group_size=4,
        optimiser=OptimiserSettings(
            learning_rate=learning_rate, schedule="constant", warmup_ratio=0.0, batch_size=8, accumulation=1,
            max_grad_norm=1e6,
        ),
        checkpoint_steps=1,
        guard=GuardConfig(window=1, length_ratio=(0.0, 100.0), entropy_ratio=(0.0, 100.0), **guard),
    )  # fmt: skip
    return policy_job(taught, out, config)


def train(taught: Path, out: Path, learning_rate: float, **guard: Any) -> tuple[PolicyJob, TrainingSummary]:
    job = job_for(taught, out, learning_rate, **guard)
    return job, train_policy(job)


BROKEN = 30.0
# A learning rate that destroys the policy in one step.


def test_an_honest_policy_trains_to_its_end_without_alarm(taught, tmp_path):
    _, summary = train(taught, tmp_path, 1e-5, action="stop")
    assert summary.steps == 6 and "alarms" not in summary.extra


def test_a_policy_that_breaks_is_stopped_and_nothing_is_published(taught, tmp_path):
    with pytest.raises(PolicyCollapsed, match=r"collapsed at step \d: think_tags: one think block in \d+%, was \d+%"):
        train(taught, tmp_path, BROKEN, action="stop")
    assert not (tmp_path / "adapter").exists()


class Breaks(TrainerCallback):
    """From a step on (in one phase of a training with cycles) the learning rate is one that destroys the policy."""

    def __init__(self, step: int, phase: int | None = None) -> None:
        self._step, self._phase = step, phase

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        here = self._phase is None or Path(args.output_dir).parent.name == f"grpo-{self._phase}"
        if here and state.global_step >= self._step:
            for group in now["optimizer"].param_groups:
                group["lr"] = BROKEN


def assert_same_weights(published: Path, kept: Path) -> None:
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (published, kept))
    assert all((one[name] == weight).all() for name, weight in other.items())


def test_a_policy_that_breaks_is_rolled_back_to_the_weights_before(taught, tmp_path):
    job = job_for(taught, tmp_path, 1e-5, action="rollback", think_share=0.5)
    summary = train_policy(job, [Breaks(2)])
    (alarm, *_), back = summary.extra["alarms"], summary.extra["rolled_back_to"]
    # The update of step 2 breaks it, so step 3 samples from what is broken: checkpoint 2 is the last good one.
    assert (alarm["name"], alarm["step"], back, summary.steps) == ("think_tags", 3, 2, 4)
    assert_same_weights(job.adapter_out, tmp_path / "trainer" / "good" / "checkpoint-2")


def test_a_policy_that_breaks_at_once_has_nothing_to_roll_back_to(taught, tmp_path):
    with pytest.raises(PolicyCollapsed, match=r"no checkpoint from before the alarm's window .*step 0 or earlier"):
        train(taught, tmp_path, BROKEN, action="rollback")
    assert not (tmp_path / "adapter").exists()


def test_a_rollback_ends_a_training_with_cycles(taught, tmp_path):
    job = job_for(taught, tmp_path, 1e-5, action="rollback", steps=12, cycles=CycleSettings(n=2))
    summary = train_in_cycles(job, [Breaks(1, phase=1)])
    back, (alarm, *_) = summary.extra["rolled_back_to"], summary.extra["alarms"]
    assert (alarm["step"], back, summary.steps) == (6, 5, 7), "phases of 4 steps"
    assert len(summary.extra["fine_tunings"]) == 1 and not (tmp_path / "trainer" / "grpo-2").exists()
    good = tmp_path / "trainer" / "grpo-1" / "trainer" / "good" / "checkpoint-1"
    assert_same_weights(job.adapter_out, good)
    again = train_in_cycles(job, [Breaks(1, phase=1)])
    assert again.extra["rolled_back_to"] == back, "also if its commit was killed"


def test_by_default_an_alarm_is_noted_and_training_goes_on(taught, tmp_path):
    job, summary = train(taught, tmp_path, BROKEN)
    assert summary.steps == 6 and "rolled_back_to" not in summary.extra
    assert "think_tags" in [alarm["name"] for alarm in summary.extra["alarms"]]
    assert json.loads((job.out / "summary.json").read_text())["extra"]["alarms"]
