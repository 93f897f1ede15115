"""The reference policy of the KL term while it follows the trained one; ours, since TRL's switch refuses adapters.

TRL keeps the reference as a second adapter ("ref") beside the trained one ("default"). The trainer's checkpoints hold
both, so a resumed training has the reference it stopped with.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from agentflow.training.policy_options import ReferenceSettings

POLICY, REFERENCE = "default", "ref"
# Names of the two adapters, as TRL gives them.


class ReferenceCallback(TrainerCallback):
    """Moves the reference and forgets the optimiser's moments when it is time; every worker does the same."""

    def __init__(self, settings: ReferenceSettings) -> None:
        self._settings = settings

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        model, optimiser = now["model"], now["optimizer"]
        if _due(state.global_step, self._settings.sync_steps):
            move_reference(model, self._settings.mix)
        if _due(state.global_step, self._settings.reset_steps):
            move_reference(model, 1.0)
            optimiser.state.clear()  # made anew, from zero, at the next step


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


@torch.no_grad()
def move_reference(model: Any, mix: float) -> None:
    """reference = mix * policy + (1 - mix) * reference, weight by weight; nothing where there is no reference."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        reference = parameters.get(name.replace(f".{POLICY}.", f".{REFERENCE}."))
        if f".{POLICY}." in name and reference is not None:
            reference.lerp_(parameter.to(reference.dtype), mix)
