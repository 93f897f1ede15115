"""GRPOTrainer whose advantages carry a weight of their question; TRL has no switch for that."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

WEIGHT = "prompt_weight"
# Column of the rollout function's answer: one weight per rollout.


class WeightedTrainer(GRPOTrainer):
    """Multiplies every rollout's advantage by its WEIGHT, after TRL has centred and scaled the rewards."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        advantages = output["advantages"]
        output["advantages"] = advantages * advantages.new_tensor([row[WEIGHT] for row in inputs])
        return output
