"""A training that lost its process group is stopped before its first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from transformers import TrainingArguments

from agentflow.errors import ConfigError
from agentflow.training.callbacks import assert_world_size


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    """What a trainer knows of its processes: this one alone."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    return SimpleNamespace(args=arguments, accelerator=Accelerator(cpu=True))


def test_a_worker_that_trains_alone_where_two_should_is_stopped(trainer: Any) -> None:
    assert_world_size(trainer, 1)
    with pytest.raises(AssertionError, match="1 processes instead of 2: the process group is missing"):
        assert_world_size(trainer, 2)


def test_one_process_with_several_gpus_is_refused(trainer: Any) -> None:
    trainer.args._n_gpu = 2
    with pytest.raises(ConfigError, match="one process sees 2 GPUs.*CUDA_VISIBLE_DEVICES=0"):
        assert_world_size(trainer, 1)
