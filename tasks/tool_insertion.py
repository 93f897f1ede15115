"""tool_insertion on Prefect and Ray: one task per batch of traces."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.records import Outcomes
from agentflow.schemas import TOOL_TRACES
from agentflow.stages.tool_insertion import ToolInsertionConfig, insert_batch, wants_lookups
from tasks.batches import commit, run_batches
from tasks.context import RunContext
from tasks.making import Effort, Made, make


@task(name="tool-insertion-batch", retries=0, cache_policy=NO_CACHE, log_prints=False)
def insertion_batch(
    fingerprint: str,
    key: str,
    rows: list[dict[str, Any]],
    config: ToolInsertionConfig,
    where: RunContext,
    allow_failed: bool,
) -> dict[str, Any]:
    """Insert calls into one batch (teacher lookups and searches are paid) and commit it."""

    async def insert() -> Outcomes:
        async with AsyncExitStack() as stack:
            ledger = stack.enter_context(where.access.open_ledger())
            teacher = None
            if any(wants_lookups(row, config) for row in rows):
                teacher = await stack.enter_async_context(
                    where.access.open_teacher(config.teacher, ledger, config.edition)
                )
            opened = where.access.open_toolbox(config.tools, config.search, config.edition, ledger)
            return await insert_batch(rows, config, teacher, await stack.enter_async_context(opened))

    return commit(where.store(), "tool_insertion", fingerprint, key, asyncio.run(insert()), TOOL_TRACES, allow_failed)


def make_tool_insertion(identity: Identity, config: ToolInsertionConfig, traces: Made, where: RunContext) -> Made:
    """The traces with calls and their results spliced in."""

    def compute(store: Store, effort: Effort) -> Artifact:
        def submit(name: str, key: str, batch: list[dict[str, Any]], allow_failed: bool) -> Any:
            return insertion_batch.with_options(task_run_name=name).submit(
                identity.fingerprint, key, batch, config, where, allow_failed
            )

        outcomes = run_batches(
            "tool_insertion",
            "tool_insertion",
            identity.fingerprint,
            traces.artifact.rows(),
            config.batch_size,
            store,
            where,
            submit,
            config.failure_budget,
        )
        artifact = store.commit_table(identity, outcomes, TOOL_TRACES, recipe=where.recipe, **effort.spent())
        store.drop_batches("tool_insertion", identity.fingerprint)
        return artifact

    return make("tool_insertion", identity, where, compute)
