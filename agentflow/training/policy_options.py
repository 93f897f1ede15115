"""GRPO's options from neighbouring work, all off by default; light enough for recipes and the CLI.

Marks [P] [D] [O] as in docs/methods.md. Each says whose idea it is; the exact rule is ours [O] wherever none is named.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentflow.config import Frozen

PromptWeighting = Literal["none", "accuracy"]


class ReferenceSettings(Frozen):
    """How the policy that the KL term pulls to follows the one that is trained.

    TRL's own switch (`sync_ref_model`) refuses adapters, so these are ours.
    """

    sync_steps: int | None = Field(None, ge=1)
    # Every so many steps: reference = mix * policy + (1 - mix) * reference (TR-DPO [O]). None keeps the cold start.
    # Needs beta above 0.
    mix: float = Field(0.6, gt=0, le=1)
    # As TRL's ref_model_mixup_alpha; 1 copies the policy. Mixes the adapter's two factors, not their product [O].
    reset_steps: int | None = Field(None, ge=1)
    # Every so many steps the reference (where beta is above 0) becomes the policy, and the optimiser forgets its
    # moments (ProRL's hard reset [O]). The learning-rate schedule goes on.


class HotSampling(Frozen):
    """More samples than a group holds, at a higher temperature, and the ones that differ most are trained on."""

    factor: int = Field(1, ge=1, le=16)
    # Samples of a question for each that is trained on; 1 is off. Every sample is generated and its calls are paid.
    temperature: float = Field(1.2, gt=0)
    # Of sampling and of the loss's probabilities, in place of generation.temperature, where factor is above 1 [O].
