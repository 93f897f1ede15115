"""What Ray Train hears of a training: every checkpoint, once it is sealed.

Ray's own callback copies each checkpoint into its storage and resumes from that copy. Ours stay where they are,
verified by their seal (training.checkpoints), whatever starts the training; Ray gets the numbers and the folder's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train
from transformers import TrainerCallback

from agentflow.training.checkpoints import checkpoint_folder


class RayReportCallback(TrainerCallback):
    """Reports {"step", "of", "checkpoint"} and what was last logged (loss or reward, learning rate, ...) at every save.

    A report is a barrier: every worker of the group saves, and so reports, equally often. Runs after the callback that
    seals, so that what Ray names can be gone on from.
    """

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        logged: dict[str, Any] = next((entry for entry in reversed(state.log_history) if "learning_rate" in entry), {})
        numbers = {name: value for name, value in logged.items() if isinstance(value, int | float)}
        folder = checkpoint_folder(Path(args.output_dir), state.global_step)
        ray.train.report({**numbers, "step": state.global_step, "of": state.max_steps, "checkpoint": str(folder)})
