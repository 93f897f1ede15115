"""The rewards by name, and the one function that computes whichever was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from agentflow.rewards.calls import BinaryConfig, ToolRlConfig, binary, toolrl
from agentflow.rewards.composite import CompositeConfig, composite
from agentflow.rewards.contract import Attempt, Gold, Rewards
from agentflow.rewards.mtr import MtrConfig, mtr

AnyReward = CompositeConfig | ToolRlConfig | BinaryConfig | MtrConfig
RewardChoice = Annotated[AnyReward, Field(discriminator="kind")]
# By `kind`: composite, toolrl, binary, mtr.


def score(
    config: AnyReward,
    attempt: Attempt,
    gold: Gold,
    similarity: float | None = None,
    schemas: Sequence[Mapping[str, Any]] = (),
) -> Rewards:
    """The chosen reward of a rollout. `similarity`: what a model said of its answer, where the reward asks one."""
    match config:
        case CompositeConfig():
            return composite(attempt, gold, config, similarity)
        case ToolRlConfig():
            return toolrl(attempt, gold, config)
        case BinaryConfig():
            return binary(attempt, gold, config)
        case MtrConfig():
            return mtr(attempt, gold, config, schemas)
