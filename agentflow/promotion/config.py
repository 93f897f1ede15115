"""The rules of the gate as configuration. Shares are 0 to 1, differences of shares absolute unless a comment says else.

Every default is ours [O]: wide enough that two nights of the same recipe pass, narrow enough that a broken teacher, a
dead tool or an unlearnt syntax does not. No field here enters a fingerprint: it decides about artifacts, it makes none.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentflow.config import Frozen
from agentflow.export.licences import LicencePolicy

ModelName = Literal["sft", "cold_start", "grpo"]


class GateConfig(Frozen):
    """What a night must fulfil. Rules against the promoted night hold by definition while nothing is promoted."""

    # ------------------------------------------------ data set, by itself
    min_rows: int = Field(1, ge=0)
    # Training rows (of the loss filter).
    min_yield: float = Field(0.0, ge=0, le=1)
    # Samples whose calls the loss filter kept / samples that had calls.
    # ------------------------------------------------ data set, against the promoted one
    max_row_loss: float = Field(0.2, ge=0, le=1)
    # Training rows that may be missing, as a share of the promoted night's.
    max_funnel_drop: float = Field(0.1, ge=0, le=1)
    # By how much the share of input keys that a stage lets through may fall; for every stage.
    max_yield_drop: float = Field(0.1, ge=0, le=1)
    max_duplicate_rise: float = Field(0.05, ge=0, le=1)
    max_contamination_rise: float = Field(0.01, ge=0, le=1)
    # Rise of the share of questions dropped as duplicates, and as too close to an evaluation set.
    max_length_ks: float = Field(0.2, ge=0, le=1)
    max_calls_ks: float = Field(0.2, ge=0, le=1)
    # Kolmogorov-Smirnov distance of words of reasoning and of calls a row; of tokens and calls an evaluated answer.
    max_tool_psi: float = Field(0.25, ge=0)
    # Population stability index of which tools a row uses; 0.25 is the usual mark of a shifted population.
    alpha: float = Field(0.001, gt=0, lt=1)
    # A distance that chance exceeds in this share of equal nights is no drift, however small the bounds above are.
    # ------------------------------------------------ model
    max_failed_share: float = Field(0.05, ge=0, le=1)
    # Evaluation rows that failed by infrastructure. They are in no accuracy; too many, and the accuracy says nothing.
    min_accuracy: float = Field(0.0, ge=0, le=1)
    max_accuracy_drop: float = Field(0.05, ge=0, le=1)
    # Fall of the accuracy itself. Whatever it is, a fall whose whole interval lies below zero fails too.
    max_plausible_drop: float | None = Field(None, ge=0, le=1)
    # The interval's lower end may not lie further below zero (non-inferiority). Empty: not asked; few questions would
    # never pass.
    min_gain_over_base: float | None = Field(None, ge=-1, le=1)
    # Accuracy less that of the untrained base model in its better style. Empty: not asked.
    level: float = Field(0.95, gt=0, lt=1)
    # Confidence of the intervals.


class PromotionConfig(Frozen):
    """How nights of a recipe are promoted."""

    automatic: bool = False
    # Whether a run ends with the gate. Otherwise `agentflow promote` asks it.
    model: ModelName | None = None
    # Whose evaluation counts. Empty: the last model of the pipeline that the recipe evaluates.
    gate: GateConfig = GateConfig()
    policy: LicencePolicy = LicencePolicy()
    # Licences and terms a data set may be made of; a night that breaks it is not promoted.
