"""Training configurations, light enough for recipes and the CLI. Marks [P] [D] [O] as in docs/methods.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agentflow.config import Frozen, Where


class LoraSettings(Frozen):
    """Low-rank adapters on the frozen base. Values lost in papers A and B: ours [O]."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    rank_stabilised: bool = False
    # Scales by alpha / sqrt(rank) instead of alpha / rank (rsLoRA [O]).
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    # Paper A: attention projections and feed-forward [P]; paper B: exactly these seven [P].


class OptimiserSettings(Frozen):
    """AdamW with a learning-rate schedule."""

    learning_rate: float = Field(2e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    # Share of all steps in which the rate rises from 0.
    name: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = "adamw_torch"
    # The 8-bit and paged ones come from bitsandbytes; paged ones are QLoRA's choice for large models.
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(16, ge=1)
    # Rows in one forward pass on one worker.
    accumulation: int = Field(4, ge=1)
    # Forward passes summed before a step.
    seed: int = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Where()] = "auto"
    # "auto" takes a GPU if there is one; "cuda" refuses to train without.
    attention: Annotated[Literal["auto", "sdpa", "flash_attention_2", "eager"], Where()] = "auto"
    # Which kernel computes attention. "auto": over packed rows flash_attention_2 where it is installed, else torch's
    # own variable-length kernel; otherwise transformers' choice (sdpa). flash_attention_2 needs a GPU and the package
    # flash-attn.
    sharding: Annotated[Literal["none", "fsdp2", "zero2", "zero3"], Where()] = "none"
    # How a model is split over the workers of a training: not at all (each holds all of it), FSDP2, or DeepSpeed's
    # ZeRO stage 2 (gradients, optimiser) or 3 (weights too).
    report_to: Annotated[tuple[Literal["trackio", "wandb", "mlflow"], ...], Where()] = ()
    # Trackers besides TensorBoard, which is always written. Their packages and keys are the user's to provide.


class EvaluationSettings(Frozen):
    """Loss on held-out rows while training [O]; off by default."""

    share: float = Field(0.0, ge=0, le=0.5)
    # Of the questions, held out from training; 0 is none.
    every: int = Field(20, ge=1)
    # Optimiser steps between two evaluations.
    patience: int | None = Field(None, ge=1)
    # Stop after so many evaluations without improvement and publish the best weights; None trains to the end.

    @model_validator(mode="after")
    def _patience_needs_rows(self) -> EvaluationSettings:
        if self.patience is not None and self.share == 0:
            raise ValueError(f"patience {self.patience} needs rows to evaluate on; set share above 0")
        return self


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
    packing: bool = False
    # Join whole rows into sequences of up to max_length tokens; attention and positions never cross a row's border.
    # batch_size then counts sequences.
    compile_layers: Annotated[bool, Where()] = False
    # torch.compile on every layer: what stands between the matrix products is fused. On a GPU only; the first steps
    # take about 40 s longer, and losses differ in rounding.
    evaluation: EvaluationSettings = EvaluationSettings()
    merged_export: bool = False
    # Also publish base and adapter as one model (`merged/`, safetensors); needs memory for a second copy of the base.
    checkpoint_steps: Annotated[int, Where()] = Field(20, ge=1)
    # Optimiser steps between two checkpoints: what a kill costs at most. Never changes the result.
