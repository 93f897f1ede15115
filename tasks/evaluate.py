"""evaluate on Ray: one actor answers for all models in turn; judging happens here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.schemas import EVALUATIONS
from agentflow.stages.evaluate import EvaluateConfig, chosen, judge
from agentflow.training.jobs import ADAPTER
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.ray_work import AnsweringActor


class Answerer:
    """The answering actor, started when the first model is really evaluated."""

    def __init__(self, where: RunContext) -> None:
        self._where = where
        self._actor: Any = None

    def get(self) -> Any:
        if self._actor is None:
            resources = self._where.evaluate
            self._actor = AnsweringActor.options(num_cpus=resources.cpus, num_gpus=resources.gpus).remote()  # type: ignore[attr-defined]
        return self._actor

    def stop(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)


@contextmanager
def open_answerer(where: RunContext) -> Iterator[Answerer]:
    """One answering actor for several evaluations, stopped at the end."""
    answerer = Answerer(where)
    try:
        yield answerer
    finally:
        answerer.stop()


@task(name="evaluate", retries=0, cache_policy=NO_CACHE)
def make_evaluation(
    name: str,
    identity: Identity,
    config: EvaluateConfig,
    questions: Made,
    base: Made,
    tuned: Made | None,
    answerer: Answerer,
    where: RunContext,
) -> Made:
    """Held-out questions answered by one model, with tools in the loop."""

    def compute(store: Store, effort: Effort) -> Artifact:
        rows = chosen(questions.artifact.rows(), config)
        adapter = str(tuned.artifact.path / ADAPTER) if tuned else None
        progress = str(where.progress(name))
        answered = answerer.get().answer.remote(
            rows, config, str(base.artifact.path), adapter, where.access, where.decode_batch, progress
        )
        return store.commit_table(
            identity, judge(rows, ray.get(answered), config), EVALUATIONS, recipe=where.recipe, **effort.spent()
        )

    return make(name, identity, where, compute)
