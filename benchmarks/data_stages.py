"""The data stages, questions to loss filter, in one process: called directly, or as the pipeline's flow.

`python -m benchmarks.data_stages direct|flow --root R --teacher U --search U --set ...` prints {"wall_s", "start_s",
"stages": {name: seconds}, "digests": {table: digest}}. Both commit every batch and every artifact to a store and pay
through a ledger; direct calls them one after another without Prefect and Ray. `start_s` is what the flow's Prefect
server and Ray took to come up; `wall_s` is without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.records import Outcomes
from agentflow.schemas import FILTERED, QUESTIONS, TOOL_TRACES, TRACES
from agentflow.stages.loss_filter import decide
from agentflow.stages.questions import cleaned_questions
from agentflow.stages.tool_insertion import insert_batch, insertion_counts, wants_lookups
from agentflow.stages.traces import trace_batch
from flows.plan import Node, plan
from flows.recipes import Recipe, load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of, cpus_of
from tasks.batches import batch_key, merge, split
from tasks.context import RunContext, placed_in
from tasks.making import Made, collected

TABLES = ("questions", "traces", "tool_insertion", "loss_filter")
Rows = list[dict[str, Any]]


class DirectStages:
    """Every stage as a plain call, batch after batch."""

    def __init__(self, recipe: Recipe, where: RunContext) -> None:
        self._where, self._store = where, where.store()
        self._nodes = plan(recipe)
        self.seconds: dict[str, float] = {}

    def make(self) -> dict[str, Artifact]:
        """All artifacts; `seconds` then holds what each took."""
        base = self._timed("base_model", self._base_model)
        questions = self._timed("questions", self._questions)
        train = [row for row in questions.rows() if row["split"] == "train"]
        traces = self._timed("traces", lambda node: self._paid(node, train, self._ask, TRACES))
        rows = traces.rows()
        inserted = self._timed("tool_insertion", lambda node: self._paid(node, rows, self._insert, TOOL_TRACES))
        kept = self._timed("loss_filter", lambda node: self._filter(node, inserted.rows(), base.path))
        return {"questions": questions, "traces": traces, "tool_insertion": inserted, "loss_filter": kept}

    def _timed(self, name: str, compute: Callable[[Node], Artifact]) -> Artifact:
        started = time.monotonic()
        artifact = compute(self._nodes[name])
        self.seconds[name] = round(time.monotonic() - started, 3)
        return artifact

    def _base_model(self, node: Node) -> Artifact:
        from agentflow.models.loading import convert

        def write(folder: Path) -> None:
            convert(node.config.source, folder)  # type: ignore[attr-defined]

        return self._store.commit_files(node.identity, write, recipe=self._where.recipe)

    def _questions(self, node: Node) -> Artifact:
        outcomes = cleaned_questions(node.config).outcomes  # type: ignore[arg-type]
        return self._store.commit_table(node.identity, outcomes, QUESTIONS, recipe=self._where.recipe)

    async def _ask(self, rows: Rows, config: Any) -> Outcomes:
        with self._where.access.open_ledger() as ledger:
            async with self._where.access.open_teacher(config.teacher, ledger, config.edition) as teacher:
                return await trace_batch(rows, config, teacher)

    async def _insert(self, rows: Rows, config: Any) -> Outcomes:
        access = self._where.access
        async with AsyncExitStack() as stack:
            ledger = stack.enter_context(access.open_ledger())
            teacher = None
            if any(wants_lookups(row, config) for row in rows):
                opened = access.open_teacher(config.teacher, ledger, config.edition)
                teacher = await stack.enter_async_context(opened)
            edition = config.search_edition or config.edition
            toolbox = access.open_toolbox(config.tools, config.search, edition, ledger)
            return await insert_batch(rows, config, teacher, await stack.enter_async_context(toolbox), None)

    def _paid(self, node: Node, rows: Rows, work: Callable[[Rows, Any], Any], schema: pa.Schema) -> Artifact:
        stage, fingerprint, config = node.identity.stage, node.identity.fingerprint, node.config
        parts = []
        for batch in split(rows, config.batch_size):  # type: ignore[attr-defined]
            outcomes = asyncio.run(work(batch, config))
            self._store.commit_batch(stage, fingerprint, batch_key(batch), outcomes, schema)
            parts.append(outcomes)
        merged = merge(parts)
        extra = insertion_counts(merged) if stage == "tool_insertion" else {}
        return self._publish(node, merged, schema, extra)

    def _filter(self, node: Node, rows: Rows, base: Path) -> Artifact:
        import torch

        from agentflow.models.filtering import RowScorer
        from agentflow.models.loading import load_model, load_tokenizer

        config: Any = node.config
        by_id = {row["id"]: row for row in rows}
        model = load_model(base, device="cpu", dtype=getattr(torch, config.precision))
        scorer = RowScorer(model, load_tokenizer(base), config)
        planned = scorer.plan([row for row in rows if row["n_calls"]])
        parts = [decide([row for row in rows if not row["n_calls"]], {}, config)]
        parts.append(decide([by_id[row_id] for row_id in planned.refused], planned.refused, config))
        for shard in planned.shards:
            batches = [[by_id[row_id] for row_id in batch] for batch in shard]
            scored = [row for batch in batches for row in batch]
            decided = decide(scored, scorer.score(batches), config)
            self._store.commit_batch("loss_filter", node.identity.fingerprint, batch_key(scored), decided, FILTERED)
            parts.append(decided)
        return self._publish(node, merge(parts), FILTERED, {})

    def _publish(self, node: Node, outcomes: Outcomes, schema: pa.Schema, extra: dict[str, Any]) -> Artifact:
        artifact = self._store.commit_table(node.identity, outcomes, schema, recipe=self._where.recipe, extra=extra)
        self._store.drop_batches(node.identity.stage, node.identity.fingerprint)
        return artifact


def run_direct(recipe: Recipe, where: RunContext) -> dict[str, Any]:
    """Seconds and digests of the plain calls."""
    started = time.monotonic()
    stages = DirectStages(recipe, where)
    made = stages.make()
    return _result(time.monotonic() - started, 0.0, stages.seconds, made)


def run_flow(recipe: Recipe, where: RunContext) -> dict[str, Any]:
    """Seconds and digests of the pipeline's flow, on a Prefect server and a Ray that are up when the clock starts."""
    from flows.local import QUIET, prefect_server, ray_cluster

    for name, value in {**QUIET, "PREFECT_LOGGING_LEVEL": "CRITICAL"}.items():
        os.environ.setdefault(name, value)
    from flows.pipeline import pipeline

    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    made: dict[str, Made] = {}
    token = collected.set(made)
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            stack.enter_context(prefect_server(where.root, None))
            stack.enter_context(ray_cluster(cpus_of(RunOptions(root=where.root))))
            up = time.monotonic()
            stack.enter_context(placed_in(where))
            pipeline(recipe)
            ended = time.monotonic()
    finally:
        collected.reset(token)
    seconds = {name: round(one.wall_s, 3) for name, one in made.items()}
    return _result(ended - up, up - started, seconds, {name: made[name].artifact for name in TABLES})


def _result(wall_s: float, start_s: float, seconds: dict[str, float], made: dict[str, Artifact]) -> dict[str, Any]:
    digests = {name: artifact.manifest.digest for name, artifact in made.items()}
    return {"wall_s": round(wall_s, 2), "start_s": round(start_s, 2), "stages": seconds, "digests": digests}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages one way and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=("direct", "flow"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--search", required=True)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)
    recipe = load_recipe("smoke", ["upto=data", *given.set])
    where = context_of(recipe, RunOptions(root=given.root), given.teacher, given.search)
    Store.open(where.root / "artifacts")
    open_run_ledger(where, None)
    print(json.dumps((run_direct if given.how == "direct" else run_flow)(recipe, where)))


if __name__ == "__main__":
    main()
