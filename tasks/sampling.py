"""Toolformer's sampling on Ray: a pool of actors with the base model; traces in, sampled calls by row id out.

Nothing is paid here and nothing is kept: what a killed run had sampled is sampled again, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from prefect.logging import get_run_logger

from agentflow.progress import Progress
from agentflow.rendering import PromptConfig
from agentflow.stages.tool_insertion import Candidates, SamplingConfig
from tasks.context import RunContext
from tasks.making import Made
from tasks.pool import ActorPool

ROWS = 8
# Traces handed to an actor at a time.


@ray.remote(max_restarts=0, max_task_retries=0)
class SamplingActor:
    """Samples calls with one copy of the base model."""

    def __init__(self, base: str, prompt: PromptConfig, config: SamplingConfig, device: Literal["cpu", "cuda"]) -> None:
        from agentflow.models.call_sampling import CallSampler
        from agentflow.models.loading import load_model, load_tokenizer

        self._sampler = CallSampler(load_model(Path(base), device=device), load_tokenizer(Path(base)), prompt, config)

    def sample(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """By row id: (offset, distinct calls) in order of p(call)."""
        return {row["id"]: self._sampler.sample(row) for row in rows}


def sample_calls(
    rows: Sequence[dict[str, Any]], config: SamplingConfig, prompt: PromptConfig, base: Made, where: RunContext
) -> Candidates:
    """Sampled calls of all `rows`; the same for any number of workers. Raises WorkersLost."""
    resources, model = where.loss_filter, str(base.artifact.path)
    actor = SamplingActor.options(num_cpus=resources.cpus, num_gpus=resources.gpus)  # type: ignore[attr-defined]
    shards = [list(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
    progress = Progress(where.progress("tool_insertion"), "rows")
    found: dict[str, Any] = {}

    def create() -> Any:
        return actor.remote(model, prompt, config, resources.device)

    with ActorPool("tool_insertion", create, resources, get_run_logger()) as pool:
        for _, sampled in pool.map(shards, lambda worker, shard: worker.sample.remote(shard)):
            found |= sampled
            progress.update(len(found), len(rows), "sampling calls")
    return found
