"""GRPOTrainer with what TRL has no switch for: weights of questions, and steps or batches without a sample."""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer

WEIGHT = "prompt_weight"
# Column of the rollout function's answer: one weight per rollout.
_LEVELS = ("entropy", "kl")
# Means over the tokens with loss; of a batch without any TRL notes 0, which would pull the step's mean down.


class PolicyTrainer(GRPOTrainer):
    """Multiplies every advantage by its question's WEIGHT; where no token of a step carries loss, no weight moves."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        advantages = output["advantages"]
        output["advantages"] = advantages * advantages.new_tensor([row[WEIGHT] for row in inputs])
        if not self._any_loss(output):
            # The gradient is 0, and AdamW would go on by its momentum. The schedule sets the next step's rate itself;
            # this also holds where DeepSpeed steps inside its backward pass.
            assert self.optimizer is not None, "rollouts are made while it trains"
            for group in self.optimizer.param_groups:
                group["lr"] = 0.0
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)
        if not self._any_loss(inputs):
            noted = self._metrics["train"]  # nothing is evaluated
            for name in _LEVELS:
                if name in noted:
                    noted[name][-1] = float("nan")  # left out of the mean by TRL's log
        return loss

    def _any_loss(self, batch: dict[str, Any]) -> bool:
        """Whether a token of this batch carries loss in any worker."""
        mask = batch["completion_mask"]
        if "tool_mask" in batch:
            mask = mask * batch["tool_mask"]
        tokens: torch.Tensor = self.accelerator.reduce(mask.sum(), reduction="sum")
        return tokens.item() > 0
