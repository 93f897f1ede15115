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
from agentflow.clock import recording
from agentflow.records import Outcomes
from agentflow.schemas import TOOL_TRACES
from agentflow.scrubbing import scrub_extra
from agentflow.stages.tool_insertion import (
    Candidates,
    ToolInsertionConfig,
    insert_batch,
    insertion_counts,
    wants_lookups,
)
from tasks.batches import batch_key, commit, ray_name, run_batches, split
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.paid import paid_work
from tasks.sampling import sample_calls


@task(name="tool-insertion-batch", retries=0, cache_policy=NO_CACHE, log_prints=False)
def insertion_batch(
    fingerprint: str,
    key: str,
    rows: list[dict[str, Any]],
    config: ToolInsertionConfig,
    where: RunContext,
    may_fail: int,
    candidates: Candidates | None = None,
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
            edition = config.search_edition or config.edition
            opened = where.access.open_toolbox(config.tools, config.search, edition, ledger)
            return await insert_batch(rows, config, teacher, await stack.enter_async_context(opened), candidates)

    with paid_work(where), recording(where.progress("tool_insertion")):
        outcomes = asyncio.run(insert())
    return commit(where.store(), "tool_insertion", fingerprint, key, outcomes, TOOL_TRACES, may_fail)


def make_tool_insertion(
    identity: Identity, config: ToolInsertionConfig, traces: Made, where: RunContext, base: Made | None = None
) -> Made:
    """The traces with calls and their results spliced in. `base` samples calls, where `config.sampled` asks for it."""

    def compute(store: Store, effort: Effort) -> Artifact:
        rows = traces.artifact.rows()
        sampled = _sample(rows, identity, config, base, where, store)

        def submit(name: str, key: str, batch: list[dict[str, Any]], may_fail: int) -> Any:
            own = None if sampled is None else {row["id"]: sampled.get(row["id"], []) for row in batch}
            return insertion_batch.with_options(name=ray_name("tool_insertion", key), task_run_name=name).submit(
                identity.fingerprint, key, batch, config, where, may_fail, own
            )

        outcomes = run_batches(identity, rows, config.batch_size, store, where, submit, config.failure_budget)
        extra = {**insertion_counts(outcomes), **scrub_extra(outcomes, config.scrub)}
        artifact = store.commit_table(
            identity, outcomes, TOOL_TRACES, recipe=where.recipe, extra=extra, **effort.spent()
        )
        store.drop_batches("tool_insertion", identity.fingerprint)
        return artifact

    return make("tool_insertion", identity, where, compute)


def _sample(
    rows: list[dict[str, Any]],
    identity: Identity,
    config: ToolInsertionConfig,
    base: Made | None,
    where: RunContext,
    store: Store,
) -> Candidates | None:
    """Sampled calls for the rows of the batches that are not finished; None where none are wanted."""
    if config.sampled is None:
        return None
    assert base is not None, "the plan makes the base model an input where calls are sampled"
    batches = split(rows, config.batch_size)
    todo = [
        row
        for batch in batches
        if store.find_batch("tool_insertion", identity.fingerprint, batch_key(batch)) is None
        for row in batch
    ]
    return sample_calls(todo, config.sampled, config.prompt, base, where)
