"""base_model: nothing -> model folder.

The model to be tuned, as safetensors with its tokenizer (or a pointer to it).
"""

from __future__ import annotations

from agentflow.config import Frozen
from agentflow.models.sources import ModelSource


class BaseModelConfig(Frozen):
    """Which model."""

    source: ModelSource
    four_bit: bool = False
    # Hold the base in NF4 with double quantisation wherever it is used: scorer, trainings (QLoRA), rollouts,
    # evaluation. Where it is false, `sft.settings.four_bit` still trains on NF4 weights, and nothing else uses them.
