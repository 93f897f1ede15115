"""base_model: nothing -> model folder.

The model to be tuned, as safetensors with its tokenizer (or a pointer to it).
"""

from __future__ import annotations

from agentflow.config import Frozen
from agentflow.models.sources import ModelSource


class BaseModelConfig(Frozen):
    """Which model."""

    source: ModelSource
