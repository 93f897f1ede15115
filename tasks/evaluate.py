"""evaluate on Ray: a pool of actors answers batches of questions, model after model; judging happens here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.progress import Progress
from agentflow.records import Rollout
from agentflow.schemas import EVALUATIONS
from agentflow.stages.evaluate import EvaluateConfig, batches, chosen, judge
from agentflow.training.jobs import ADAPTER
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.pool import ActorPool
from tasks.ray_work import AnsweringActor

Batch = list[dict[str, Any]]


class Answerers:
    """The pool of answering actors, started when the first model is really evaluated."""

    def __init__(self, where: RunContext) -> None:
        self._where = where
        self._stack = ExitStack()
        self._pool: ActorPool | None = None

    def map(self, batches: Sequence[Batch], ask: Callable[[Any, Batch], Any]) -> Iterator[tuple[Batch, Any]]:
        """ActorPool.map; what a dead actor had searched for is in the ledger."""
        if self._pool is None:
            resources = self._where.evaluate
            actor = AnsweringActor.options(num_cpus=resources.cpus, num_gpus=resources.gpus)  # type: ignore[attr-defined]
            pool = ActorPool("evaluate", lambda: actor.remote(self._where.secrets), resources, get_run_logger())
            self._pool = self._stack.enter_context(pool)
        return self._pool.map(batches, ask)

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def open_answerers(where: RunContext) -> Iterator[Answerers]:
    """Answering actors for several evaluations, stopped at the end."""
    answerers = Answerers(where)
    try:
        yield answerers
    finally:
        answerers.stop()


@task(name="evaluate", retries=0, cache_policy=NO_CACHE)
def make_evaluation(
    name: str,
    identity: Identity,
    config: EvaluateConfig,
    questions: Made,
    base: Made,
    tuned: Made | None,
    answerers: Answerers,
    where: RunContext,
) -> Made:
    """Held-out questions answered by one model, with tools in the loop."""

    def compute(store: Store, effort: Effort) -> Artifact:
        rows = chosen(questions.artifact.rows(), config)
        adapter = str(tuned.artifact.path / ADAPTER) if tuned else None
        model, device, file = str(base.artifact.path), where.evaluate.device, where.progress(name)
        progress, answered = Progress(file, "questions"), dict[str, Rollout]()
        progress.update(0, len(rows))

        def ask(actor: Any, batch: Batch) -> Any:
            return actor.answer.remote(batch, config, model, adapter, where.access, device, str(file))

        for batch, rollouts in answerers.map(batches(rows, where.decode_batch), ask):
            answered |= {row["id"]: rollout for row, rollout in zip(batch, rollouts, strict=True)}
            progress.update(len(answered), len(rows))
        judged = judge(rows, [answered[row["id"]] for row in rows], config)
        return store.commit_table(identity, judged, EVALUATIONS, recipe=where.recipe, **effort.spent())

    return make(name, identity, where, compute)
