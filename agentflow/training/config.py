"""Training configurations, light enough for recipes and the CLI. Marks [P] [D] [O] as in docs/methods.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentflow.config import Frozen


class LoraSettings(Frozen):
    """Low-rank adapters on the frozen base. Values lost in papers A and B: ours [O]."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    # Paper A: attention projections and feed-forward [P]; paper B: exactly these seven [P].


class OptimiserSettings(Frozen):
    """AdamW with a learning-rate schedule."""

    learning_rate: float = Field(2e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    # Share of all steps in which the rate rises from 0.
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(16, ge=1)
    # Rows in one forward pass on one worker.
    accumulation: int = Field(4, ge=1)
    # Forward passes summed before a step.
    seed: int = 0


class SupervisedSettings(Frozen):
    """Completion-only training on encoded rows."""

    lora: LoraSettings = LoraSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    # Wins over epochs where set.
    max_length: int = Field(2048, ge=8)
    # Tokens. A longer row is rejected with the reason "too_long": cutting it would cut off the answer.
    four_bit: bool = False
    # QLoRA: base weights in NF4 with double quantisation (paper A [P]); works on CPU too.
    gradient_checkpointing: bool = False
    # Trades about 20 % of speed for memory; switch it on for models that do not fit otherwise.
