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


def test_a_policy_that_breaks_is_rolled_back_to_the_weights_before(taught, tmp_path):
    job, summary = train(taught, tmp_path, BROKEN, action="rollback", think_share=0.5)
    names = [alarm["name"] for alarm in summary.extra["alarms"]]
    step, back = summary.extra["alarms"][0]["step"], summary.extra["rolled_back_to"]
    assert "think_tags" in names and summary.steps < 6 and back <= step
    kept = load_file(tmp_path / "trainer" / "good" / f"checkpoint-{back}" / "adapter_model.safetensors")
    published = load_file(job.adapter_out / "adapter_model.safetensors")
    assert all((published[name] == weight).all() for name, weight in kept.items())


class BreaksPhase(TrainerCallback):
    """In one phase of a training with cycles every step has a rate that destroys the policy."""

    def __init__(self, phase: int) -> None:
        self._phase = phase

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        if Path(args.output_dir).parent.name == f"grpo-{self._phase}":
            for group in now["optimizer"].param_groups:
                group["lr"] = BROKEN


def test_a_rollback_ends_a_training_with_cycles(taught, tmp_path):
    job = job_for(taught, tmp_path, 1e-5, action="rollback", steps=9, cycles=CycleSettings(n=2))
    summary = train_in_cycles(job, [BreaksPhase(1)])
    back, (alarm, *_) = summary.extra["rolled_back_to"], summary.extra["alarms"]
    assert 3 < alarm["step"] < 6 and 3 < back <= alarm["step"] and summary.steps == alarm["step"] + 1
    assert len(summary.extra["fine_tunings"]) == 1 and not (tmp_path / "trainer" / "grpo-2").exists()
    good = tmp_path / "trainer" / "grpo-1" / "trainer" / "good" / f"checkpoint-{back - 3}"
    kept = load_file(good / "adapter_model.safetensors")
    published = load_file(job.adapter_out / "adapter_model.safetensors")
    assert all((published[name] == weight).all() for name, weight in kept.items())
    assert train_in_cycles(job, [BreaksPhase(1)]).extra["rolled_back_to"] == back, "also if its commit was killed"


def test_by_default_an_alarm_is_noted_and_training_goes_on(taught, tmp_path):
    job, summary = train(taught, tmp_path, BROKEN)
    assert summary.steps == 6 and "rolled_back_to" not in summary.extra
    assert "think_tags" in [alarm["name"] for alarm in summary.extra["alarms"]]
    assert json.loads((job.out / "summary.json").read_text())["extra"]["alarms"]
