"""Ways to end a training in the middle: a callback that raises, or one that kills its own process as a crash would; and
what a training did, to compare one that went on with one that never stopped.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from transformers import TrainerCallback

from agentflow.training.jobs import TrainingSummary


class Stopped(Exception):
    """The training was stopped on purpose."""


class StopAt(TrainerCallback):
    """Ends the training at the begin of optimiser step `step` (0 is the first), after whatever was saved before."""

    def __init__(self, step: int, kill: bool = False) -> None:
        self._step, self._kill = step, kill

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Stopped


def history(summary: TrainingSummary, *names: str) -> list[list[float]]:
    """The numbers called `names` of every logged step that has the first of them."""
    return [[entry[name] for name in names] for entry in summary.log if names[0] in entry]
