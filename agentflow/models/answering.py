"""Answer questions with a model and its tools: the part of `evaluate` that needs a GPU or a CPU's patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentflow.access import Access
from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.loading import Device, load_model, load_tokenizer
from agentflow.records import Rollout
from agentflow.rendering import prompt_turn
from agentflow.stages.evaluate import EvaluateConfig, prompt_head_of
from agentflow.toolset import syntax_for


def answer_questions(
    rows: Sequence[dict[str, Any]],
    config: EvaluateConfig,
    base: Path,
    adapter: Path | None,
    access: Access,
    *,
    batch_size: int,
    device: Device = "cpu",
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Rollout]:
    """One rollout per row, in order. `on_batch(done)` is told how many rows are finished."""
    model, tokenizer = load_model(base, adapter=adapter, merge=True, device=device), load_tokenizer(base)
    syntax = syntax_for(config.prompt.syntax)
    head = prompt_head_of(config)
    prompts = [prompt_turn(row["question"], config.prompt) for row in rows]
    # Neighbours in a batch should take equally long: same kind of question, similar length.
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["kind"], len(prompts[i]), rows[i]["id"]))
    rollouts: dict[int, Rollout] = {}

    def run(tools: ToolRunner | None) -> None:
        engine = RolloutEngine(model, tokenizer, syntax, tools, config.generation)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rollouts.update(
                zip(batch, engine.run([prompts[i] for i in batch], head=head, batch_size=batch_size), strict=True)
            )
            on_batch(len(rollouts))

    if config.style == "plain":
        run(None)
    else:
        with ToolRunner(access.open_toolbox(config.tools, config.search, config.edition)) as tools:
            run(tools)
    return [rollouts[i] for i in range(len(rows))]
