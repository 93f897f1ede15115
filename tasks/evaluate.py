"""evaluate on Ray: one actor answers for all models in turn; judging happens here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.schemas import EVALUATIONS
from agentflow.stages.evaluate import EvaluateConfig, chosen, judge
from agentflow.training.jobs import ADAPTER
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.pool import ActorPool
from tasks.ray_work import AnsweringActor


class Answerer:
    """The answering actor, started when the first model is really evaluated."""

    def __init__(self, where: RunContext) -> None:
        self._where = where
        self._stack = ExitStack()
        self._pool: ActorPool | None = None

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """The value of the ref that `call(actor)` gives, asked again if the actor died: its searches are in the ledger.

        Raises as ActorPool.map.
        """
        if self._pool is None:
            resources = self._where.evaluate.model_copy(update={"workers": 1})
            actor = AnsweringActor.options(num_cpus=resources.cpus, num_gpus=resources.gpus)  # type: ignore[attr-defined]
            pool = ActorPool("evaluate", lambda: actor.remote(self._where.secrets), resources, get_run_logger())
            self._pool = self._stack.enter_context(pool)
        return self._pool.one(call)

    def stop(self) -> None:
        self._stack.close()


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
        model, device = str(base.artifact.path), where.evaluate.device
        answered = answerer.ask(
            lambda actor: actor.answer.remote(
                rows, config, model, adapter, where.access, where.decode_batch, device, progress
            )
        )
        return store.commit_table(
            identity, judge(rows, answered, config), EVALUATIONS, recipe=where.recipe, **effort.spent()
        )

    return make(name, identity, where, compute)
