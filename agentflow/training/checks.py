"""What must hold before a training begins: said in one message, in seconds, instead of by a traceback after minutes."""

from __future__ import annotations

import importlib.util

import torch

from agentflow.errors import ConfigError
from agentflow.training.config import OptimiserSettings


def uses_gpu(optimiser: OptimiserSettings) -> bool:
    """Whether training runs on a GPU."""
    return optimiser.device != "cpu" and torch.cuda.is_available()


def check_surroundings(optimiser: OptimiserSettings) -> None:
    """Raise ConfigError for a GPU that is not there, or a tracker or optimiser whose library is not installed."""
    if optimiser.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "optimiser.device is 'cuda' and this process sees no CUDA GPU; give the stage one (resources, driver, a "
            "torch built for CUDA), or set it to 'auto' or 'cpu'"
        )
    for tracker in optimiser.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"optimiser.report_to names {tracker!r}, which is not installed; `pip install {tracker}` or leave it "
                "out (TensorBoard is always written)"
            )
    if optimiser.name != "adamw_torch" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"optimiser.name {optimiser.name!r} needs bitsandbytes; install it or use 'adamw_torch'")
