"""A GPU that is asked for and not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agentflow.errors import ConfigError
from agentflow.models.loading import load_model

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_a_gpu_that_is_not_there_is_said_with_what_to_do(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="a GPU is asked for.*leave num_gpus out of the resources"):
        load_model(tiny_base, device="cuda")


def test_on_a_cpu_models_are_float32(tiny_base: Path) -> None:
    model = load_model(tiny_base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.device.type == "cpu"
