"""evaluate on Ray: a pool of actors answers batches of questions, model after model; judging happens here.

A batch all of whose questions were answered is kept at once: a run that was killed, or whose search failed, goes on
with the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.errors import StageIncomplete
from agentflow.progress import Progress
from agentflow.records import Outcomes
from agentflow.report.markdown import safe_code
from agentflow.schemas import EVALUATIONS
from agentflow.stages.evaluate import EvaluateConfig, batches, chosen, judge
from agentflow.training.jobs import ADAPTER
from tasks.batches import TABLE_ROWS, batch_key, merge
from tasks.context import RunContext
from tasks.making import Effort, Made, make, slug
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
        progress = Progress(file, "questions")

        def ask(actor: Any, batch: Batch) -> Any:
            return actor.answer.remote(batch, config, model, adapter, where.access, device, str(file))

        parts, todo = _kept(store, identity, batches(rows, where.decode_batch))
        progress.update(sum(part.keys_in for part in parts), len(rows))
        for batch, rollouts in answerers.map(todo, ask) if todo else ():
            parts.append(judge(batch, rollouts, config))
            if not parts[-1].rejects:
                store.commit_batch(identity.stage, identity.fingerprint, batch_key(batch), parts[-1], EVALUATIONS)
            progress.update(sum(part.keys_in for part in parts), len(rows))
        outcomes = merge(parts)
        if len(outcomes.rejects) > config.failure_budget:
            raise _incomplete(name, outcomes)
        artifact = store.commit_table(identity, outcomes, EVALUATIONS, recipe=where.recipe, **effort.spent())
        store.drop_batches(identity.stage, identity.fingerprint)
        return artifact

    return make(name, identity, where, compute)


def _kept(store: Store, identity: Identity, wanted: list[Batch]) -> tuple[list[Outcomes], list[Batch]]:
    """Outcomes of the batches an earlier run has answered whole, and the batches that are to be answered."""
    found = [store.find_batch(identity.stage, identity.fingerprint, batch_key(batch)) for batch in wanted]
    kept = [batch.outcomes() for batch in found if batch is not None]
    return kept, [batch for batch, there in zip(wanted, found, strict=True) if there is None]


def _incomplete(name: str, outcomes: Outcomes) -> StageIncomplete:
    """Why the stage ends, after its failed questions were left as a table in Prefect's UI."""
    table = [
        {"question": safe_code(reject.key), "reason": reject.reason, "call": safe_code(reject.detail, 400)}
        for reject in outcomes.rejects[:TABLE_ROWS]
    ]
    description = f"{name}: {len(outcomes.rejects)} questions whose tool failed"
    create_table_artifact(key=f"{slug(name)}-failed", table=table, description=description)
    failed = Counter(reject.reason for reject in outcomes.rejects)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
    cause = f"{outcomes.rejects[0].key}: {outcomes.rejects[0].detail}"
    message = (
        f"{name}: the tools of {len(outcomes.rejects)} of {outcomes.keys_in} questions failed ({reasons}; for example "
        f"{cause[:500]}). Run again or press Retry: only batches with such a question are answered again, and every "
        "paid answer is kept. evaluate.failure_budget lets some fail."
    )
    return StageIncomplete(message, stage=name, failed=dict(failed), cause=cause)
