"""loss_filter on Ray: a pool of scoring actors over planned shards; each scored shard is committed on its own."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.progress import Progress
from agentflow.records import Outcomes
from agentflow.schemas import FILTERED
from agentflow.stages.loss_filter import LossFilterConfig, decide, nothing_kept
from tasks.batches import batch_key, merge
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.pool import ActorPool
from tasks.ray_work import ScoringActor


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
        outcomes = merge(parts)
        if (warning := nothing_kept(outcomes, config)) is not None:
            get_run_logger().warning(warning)
        artifact = store.commit_table(identity, outcomes, FILTERED, recipe=where.recipe, **effort.spent())
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
    resources = where.loss_filter
    scorer = ScoringActor.options(num_cpus=resources.cpus, num_gpus=resources.gpus)  # type: ignore[attr-defined]
    model = str(base.artifact.path)
    progress = Progress(where.progress("loss_filter"), "rows")
    with ActorPool(
        "loss_filter", lambda: scorer.remote(model, config, resources.device), resources, get_run_logger()
    ) as pool:
        shards, refused = pool.one(lambda actor: actor.plan.remote(rows))
        outcomes = [decide([by_id[row_id] for row_id in refused], refused, config)]
        todo = []
        for shard in shards:
            committed = store.find_batch("loss_filter", identity.fingerprint, batch_key(_rows(shard, by_id)))
            if committed is None:
                todo.append([[by_id[row_id] for row_id in batch] for batch in shard])
            else:
                outcomes.append(committed.outcomes())
        for shard, scores in pool.map(todo, lambda actor, shard: actor.score.remote(shard)):
            scored = [row for batch in shard for row in batch]
            decided = decide(scored, scores, config)
            store.commit_batch("loss_filter", identity.fingerprint, batch_key(scored), decided, FILTERED)
            outcomes.append(decided)
            progress.update(sum(part.keys_in for part in outcomes), len(rows))
    return outcomes


def _rows(shard: list[list[str]], by_id: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [by_id[row_id] for batch in shard for row_id in batch]
