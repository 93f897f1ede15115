"""The collapse guard in a real GRPO run: it warns, stops the stage, or brings the last good weights back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from taught_model import PROMPT, policy_job

from agentflow.errors import PolicyCollapsed
from agentflow.models.settings import GenerationConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.guard import GuardConfig
from agentflow.training.policy import train_policy


def train(taught: Path, out: Path, learning_rate: float, **guard: Any):
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=40),
        steps=6,
        group_size=4,
        optimiser=OptimiserSettings(
            learning_rate=learning_rate, schedule="constant", warmup_ratio=0.0, batch_size=8, accumulation=1,
            max_grad_norm=1e6,
        ),
        checkpoint_steps=1,
        guard=GuardConfig(window=1, length_ratio=(0.0, 100.0), entropy_ratio=(0.0, 100.0), **guard),
    )  # fmt: skip
    job = policy_job(taught, out, config)
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


def test_by_default_an_alarm_is_noted_and_training_goes_on(taught, tmp_path):
    job, summary = train(taught, tmp_path, BROKEN)
    assert summary.steps == 6 and "rolled_back_to" not in summary.extra
    assert "think_tags" in [alarm["name"] for alarm in summary.extra["alarms"]]
    assert json.loads((job.out / "summary.json").read_text())["extra"]["alarms"]
