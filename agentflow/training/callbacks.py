"""What our training adds to TRL's loop: the live display, sealed checkpoints and going on from them, and an assertion
that the workers really train together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from agentflow.errors import ConfigError
from agentflow.progress import Progress
from agentflow.training.checkpoints import KEPT, Owner, checkpoint_folder, newest_verified, seal


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
    """On CPU without a process group every worker would train alone and say nothing; this says it.

    Raises ConfigError for one process that sees several GPUs: transformers would put torch's DataParallel over them.
    """
    if trainer.args.n_gpu > 1:
        raise ConfigError(
            f"one process sees {trainer.args.n_gpu} GPUs and a training uses one per process: start it under torchrun "
            "or Ray with as many workers, or let it see one (CUDA_VISIBLE_DEVICES=0)"
        )
    actual = trainer.accelerator.num_processes
    assert actual == expected, (
        f"training runs with {actual} processes instead of {expected}: the process group is missing"
    )


class CheckpointCallback(TrainerCallback):
    """Seals every checkpoint once all workers have written their part.

    `write_part(folder, rank)` adds what the trainer does not know (the rollouts so far), in every worker.
    """

    def __init__(self, owner: Owner, write_part: Callable[[Path, int], None] | None = None) -> None:
        self._owner, self._write_part = owner, write_part

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = checkpoint_folder(Path(args.output_dir), state.global_step)
        if self._write_part is not None:
            self._write_part(folder, args.process_index)
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(folder, state.global_step, self._owner)


def checkpoint_arguments(every: int) -> dict[str, Any]:
    """Trainer arguments for a checkpoint every `every` steps and at the end."""
    return {"save_strategy": "steps", "save_steps": every, "save_total_limit": KEPT, "save_only_model": False}


def resume_point(trainer: Any, owner: Owner) -> str | None:
    """The checkpoint all workers go on from, chosen (and torn ones set aside) by rank 0 alone; None to begin anew.

    Raises ConfigError, in all workers alike, if what is there is not `owner`'s.
    """
    chosen: list[str | None] = [None, None]
    # The checkpoint, and why there can be none: a worker that raised alone would leave the others waiting.
    if trainer.is_world_process_zero():
        try:
            found = newest_verified(Path(trainer.args.output_dir), owner)
            chosen[0] = None if found is None else str(found)
        except ConfigError as error:
            chosen[1] = str(error)
    point, refused = broadcast_object_list(chosen)
    if refused is not None:
        raise ConfigError(refused)
    return point


@contextmanager
def event_folder(folder: Path | None) -> Iterator[None]:
    """A trainer made inside writes TensorBoard's event files to `folder` (it takes it from the environment alone)."""
    if folder is None:
        yield
        return
    before = os.environ.get("TENSORBOARD_LOGGING_DIR")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TENSORBOARD_LOGGING_DIR"]
        else:
            os.environ["TENSORBOARD_LOGGING_DIR"] = before
