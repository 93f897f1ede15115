"""What our training adds to TRL's loop: the live display, and an assertion that the workers really train together."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from agentflow.progress import Progress


class ProgressCallback(TrainerCallback):
    """Writes steps done and the last loss to the progress file after every step (rank 0 only)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        value = logs.get("reward", logs.get("loss"))
        name = "reward" if "reward" in logs else "loss"
        note = f"{name} {value:.3f}" if isinstance(value, float) else ""
        self._progress.update(state.global_step, state.max_steps, note)


def assert_world_size(trainer: Any, expected: int) -> None:
    """On CPU without a process group every worker would train alone and say nothing; this says it."""
    actual = trainer.accelerator.num_processes
    assert actual == expected, (
        f"training runs with {actual} processes instead of {expected}: the process group is missing"
    )
