"""How to generate, as configuration; light, so recipes can import it."""

from __future__ import annotations

from pydantic import Field

from agentflow.config import Frozen


class GenerationConfig(Frozen):
    """Limits and temperature of one rollout."""

    max_new_tokens: int = Field(160, ge=1)
    # Sampled and injected tokens together.
    max_calls: int = Field(6, ge=0)
    # Calls executed per row; a further one ends the row as unfinished.
    temperature: float = Field(0.0, ge=0)
    # 0 is greedy.
