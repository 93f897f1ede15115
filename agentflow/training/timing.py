"""Time of optimiser steps, without the rollouts that GRPO makes inside them."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from agentflow import clock

INSIDE = ("generate", "tool_wait", "sync")


class TimesCallback(TrainerCallback):
    """Adds every step to the cause `train`."""

    def __init__(self) -> None:
        self._started, self._others = 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started, self._others = time.monotonic(), _rollouts()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent = time.monotonic() - self._started - (_rollouts() - self._others)
        clock.here().add("train", max(0.0, spent))


def _rollouts() -> float:
    seconds = clock.here().seconds()
    return sum(seconds.get(cause, 0.0) for cause in INSIDE)
