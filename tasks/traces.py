"""traces on Prefect and Ray: one task per batch of questions."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.clock import recording
from agentflow.records import Outcomes
from agentflow.schemas import TRACES
from agentflow.scrubbing import scrub_extra
from agentflow.stages.traces import TracesConfig, recorded_traces, trace_batch
from tasks.batches import commit, ray_name, run_batches
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.paid import paid_work


@task(name="traces-batch", retries=0, cache_policy=NO_CACHE, log_prints=False)
def traces_batch(
    fingerprint: str, key: str, rows: list[dict[str, Any]], config: TracesConfig, where: RunContext, may_fail: int
) -> dict[str, Any]:
    """Ask the teacher about one batch and commit it."""

    async def ask() -> Outcomes:
        with where.access.open_ledger() as ledger:
            async with where.access.open_teacher(config.teacher, ledger, config.edition) as teacher:
                return await trace_batch(rows, config, teacher, accept_failures=may_fail > 0)

    with paid_work(where), recording(where.progress("traces")):
        outcomes = asyncio.run(ask())
    return commit(where.store(), "traces", fingerprint, key, outcomes, TRACES, may_fail)


def make_traces(identity: Identity, config: TracesConfig, questions: Made, where: RunContext) -> Made:
    """Teacher (or recorded) reasoning for the training questions."""

    def compute(store: Store, effort: Effort) -> Artifact:
        rows = [row for row in questions.artifact.rows() if row["split"] == "train"]
        if config.origin == "recorded":
            outcomes = recorded_traces(rows, config.scrub)
        else:

            def submit(name: str, key: str, batch: list[dict[str, Any]], may_fail: int) -> Any:
                return traces_batch.with_options(name=ray_name("traces", key), task_run_name=name).submit(
                    identity.fingerprint, key, batch, config, where, may_fail
                )

            outcomes = run_batches(identity, rows, config.batch_size, store, where, submit, config.failure_budget)
        extra = {**({"samples": outcomes.counts} if outcomes.counts else {}), **scrub_extra(outcomes, config.scrub)}
        artifact = store.commit_table(identity, outcomes, TRACES, recipe=where.recipe, extra=extra, **effort.spent())
        store.drop_batches("traces", identity.fingerprint)
        return artifact

    return make("traces", identity, where, compute)
