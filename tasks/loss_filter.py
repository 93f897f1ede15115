"""loss_filter on Ray: a pool of scoring actors over planned batches; each scored batch is committed on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.progress import Progress
from agentflow.records import Outcomes
from agentflow.schemas import FILTERED
from agentflow.stages.loss_filter import LossFilterConfig, decide
from tasks.batches import batch_key, merge
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.ray_work import ScoringActor


@dataclass(frozen=True)
class _Score:
    plain: float
    called: float
    n_common: int


@task(name="loss-filter", task_run_name="loss_filter", retries=0, cache_policy=NO_CACHE)
def make_loss_filter(
    identity: Identity, config: LossFilterConfig, inserted: Made, base: Made, where: RunContext
) -> Made:
    """The traces with only those calls that make the rest easier to predict."""

    def compute(store: Store, effort: Effort) -> Artifact:
        rows = inserted.artifact.rows()
        with_calls = [row for row in rows if row["n_calls"]]
        parts = [decide([row for row in rows if not row["n_calls"]], {}, config)]
        if with_calls:
            parts += _score_all(with_calls, identity, config, base, where, store)
        artifact = store.commit_table(identity, merge(parts), FILTERED, recipe=where.recipe, **effort.spent())
        store.drop_batches("loss_filter", identity.fingerprint)
        return artifact

    return make("loss_filter", identity, where, compute)


def _score_all(
    rows: list[dict[str, Any]],
    identity: Identity,
    config: LossFilterConfig,
    base: Made,
    where: RunContext,
    store: Store,
) -> list[Outcomes]:
    by_id = {row["id"]: row for row in rows}
    options = {"num_cpus": where.loss_filter.cpus, "num_gpus": where.loss_filter.gpus}
    actors = [
        ScoringActor.options(**options).remote(str(base.artifact.path), config)  # type: ignore[attr-defined]
        for _ in range(where.loss_filter.workers)
    ]
    progress = Progress(where.progress("loss_filter"), "rows")
    try:
        batches = [[by_id[row_id] for row_id in ids] for ids in ray.get(actors[0].plan.remote(rows))]
        outcomes: list[Outcomes] = []
        todo = []
        for batch in batches:
            committed = store.find_batch("loss_filter", identity.fingerprint, batch_key(batch))
            if committed is None:
                todo.append(batch)
            else:
                outcomes.append(committed.outcomes())
        running: dict[Any, tuple[list[dict[str, Any]], Any]] = {}
        idle = list(actors)
        while todo or running:
            while todo and idle:
                actor, batch = idle.pop(), todo.pop()
                running[actor.score.remote(batch)] = (batch, actor)
            (ready,), _ = ray.wait(list(running), num_returns=1)
            batch, actor = running.pop(ready)
            idle.append(actor)
            scores = {row_id: _Score(*values) for row_id, values in ray.get(ready).items()}
            decided = decide(batch, scores, config)
            store.commit_batch("loss_filter", identity.fingerprint, batch_key(batch), decided, FILTERED)
            outcomes.append(decided)
            progress.update(sum(part.keys_in for part in outcomes), len(rows))
    finally:
        for actor in actors:
            ray.kill(actor)
    return outcomes
