"""GRPO's options from neighbouring work, all off by default; light enough for recipes and the CLI.

Marks [P] [D] [O] as in docs/methods.md. Each says whose idea it is; the exact rule is ours [O] wherever none is named.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agentflow.config import Frozen
from agentflow.training.config import SupervisedSettings

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


class CycleSettings(Frozen):
    """Fine-tuning between phases of GRPO: on what the policy got right, and on what it cannot solve."""

    n: int = Field(0, ge=0, le=20)
    # Fine-tunings; GRPO's steps are shared out evenly over the n + 1 phases around them. 0 is off.
    own: bool = True
    # Train on the policy's own verified rollouts of the phase before: right, well formed, no tool failed [O].
    per_question: int = Field(1, ge=1)
    # At most so many of them for a question, the shortest first [O].
    unsolved: bool = False
    # Train on the loss filter's traces of the questions that no rollout of the phase before solved [O].
    settings: SupervisedSettings = SupervisedSettings(epochs=1.0)
    # Of the fine-tunings; `lora` is the adapter's own and unused.

    @model_validator(mode="after")
    def _something_to_train_on(self) -> CycleSettings:
        if self.n and not self.own and not self.unsolved:
            raise ValueError(f"cycles.n {self.n} with own and unsolved both false has nothing to train on; set one")
        return self

    @property
    def reads_traces(self) -> bool:
        """Whether the loss filter's rows are an input."""
        return self.n > 0 and self.unsolved
