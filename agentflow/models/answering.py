"""Answer questions with a model and its tools: the part of `evaluate` that needs a GPU or a CPU's patience."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentflow.access import Access
from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.loading import Device, load_model, load_tokenizer
from agentflow.records import Rollout
from agentflow.rendering import prompt_turn
from agentflow.stages.evaluate import EvaluateConfig, prompt_head_of
from agentflow.toolset import syntax_for


class AnsweringModel:
    """A base model, with or without an adapter, that answers questions."""

    def __init__(self, base: Path, adapter: Path | None, device: Device = "cpu") -> None:
        self.named = base, adapter
        self._model = load_model(base, adapter=adapter, merge=True, device=device)
        self._tokenizer = load_tokenizer(base)

    def answer(self, batch: Sequence[dict[str, Any]], config: EvaluateConfig, access: Access) -> list[Rollout]:
        """One rollout per row, in order; all rows are decoded together."""
        prompts = [prompt_turn(row["question"], config.prompt) for row in batch]

        def run(tools: ToolRunner | None) -> list[Rollout]:
            syntax = syntax_for(config.prompt.syntax)
            engine = RolloutEngine(self._model, self._tokenizer, syntax, tools, config.generation)
            return engine.run(prompts, head=prompt_head_of(config), batch_size=len(prompts))

        if config.style == "plain":
            return run(None)
        with ToolRunner(access.open_toolbox(config.tools, config.search, config.edition)) as tools:
            return run(tools)
