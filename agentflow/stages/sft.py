"""sft: FILTERED + base_model -> LoRA adapter.

Supervised fine-tuning on reasoning with calls; tool results carry no loss (METHODS A.5).
"""

from __future__ import annotations

from agentflow.config import Frozen
from agentflow.rendering import PromptConfig
from agentflow.training.config import SupervisedSettings


class SftConfig(Frozen):
    """What is trained, and how."""

    prompt: PromptConfig = PromptConfig()
    settings: SupervisedSettings = SupervisedSettings()
