"""Retry of failed search batches, measured by the search service's own count.

In: nothing; it brings its own services, Prefect server and Ray. Out: one row. The search stage of the smoke recipe runs
over generated two-hop questions while 5 % of its queries, chosen by hash, fail for ever; then the fault is mended and
the same stage runs again, as it does on Retry. Retry through a deployment is a test (tests/wrappers).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow
from prefect_ray import RayTaskRunner

from agentflow.errors import StageIncomplete
from agentflow.services.server import LocalService
from benchmarks.row import Row
from benchmarks.sizes import sized
from flows.local import QUIET, local_services, prefect_server, ray_cluster
from flows.plan import plan
from flows.recipes import Recipe, load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of, cpus_of
from tasks.context import RunContext
from tasks.making import Made
from tasks.simple import make_questions
from tasks.tool_insertion import make_tool_insertion
from tasks.traces import make_traces

QUESTIONS = sized(160, 60)
SHARE = 0.05
SETTINGS = (
    "questions.source.arithmetic_train=0", f"questions.source.two_hop_train={QUESTIONS}", "teacher.local.wrong_rate=0",
    "questions.source.two_hop_templates=4", "traces.batch_size=50", "tool_insertion.batch_size=20",
    "search.max_attempts=1",
)  # fmt: skip


@flow(name="search-stage", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def search_stage(recipe: Recipe, where: RunContext) -> Made:
    """The paid data stages, one Prefect task per batch."""
    of: dict[str, tuple[Any, Any]] = {name: (node.identity, node.config) for name, node in plan(recipe).items()}
    traces = make_traces(*of["traces"], make_questions(*of["questions"], where), where)
    return make_tool_insertion(*of["tool_insertion"], traces, where)


def rows() -> Iterator[Row]:
    """The one row of this part."""
    what = f"search batch stage, {QUESTIONS} two-hop questions, 5 % scripted permanent failures: calls of the Retry"
    target = "exactly the failed queries (the service's own count)"
    for name, value in {**QUIET, "PREFECT_LOGGING_LEVEL": "CRITICAL"}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    recipe = load_recipe("smoke", SETTINGS)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retry-")))
        search = stack.enter_context(LocalService("search", world_seed=recipe.search.local.world_seed))
        stack.callback(os.environ.pop, "AGENTFLOW_SEARCH_URL", None)
        os.environ["AGENTFLOW_SEARCH_URL"] = search.base_url
        urls = stack.enter_context(local_services(recipe))
        where = context_of(recipe, RunOptions(root=root), *urls)
        where.store()
        open_run_ledger(where, None)
        stack.enter_context(prefect_server(root, None))
        stack.enter_context(ray_cluster(cpus_of(RunOptions(root=root))))
        yield retried(what, target, recipe, where, search)


def retried(what: str, target: str, recipe: Recipe, where: RunContext, search: LocalService) -> Row:
    """Fail some searches, mend the fault, run again, compare."""
    search.set_faults([{"kind": "status", "status": 500, "share": SHARE}])
    try:
        search_stage(recipe, where)
    except StageIncomplete as incomplete:
        first = search.history()
        failed_rows = sum(incomplete.failed.values())
    else:
        return Row.done(what, target, 0, "calls", False, "the script failed no query; nothing to retry")
    failed = Counter(entry["sha256"] for entry in first if entry["status"] == 500)
    search.reset()
    made = search_stage(recipe, where)
    asked = Counter(entry["sha256"] for entry in search.history())
    counts = made.artifact.manifest.counts
    ok = asked == Counter(set(failed)) and counts is not None and not counts.failed
    reason = (
        f"first run: {len(first)} calls of {len({entry['subject'] for entry in first})} queries, {len(failed)} queries "
        f"failed in {failed_rows} rows; Retry: {sum(asked.values())} calls, "
        f"{len(asked.keys() - failed.keys())} of them of other queries; {made.artifact.manifest.rows} rows made"
    )
    return Row.done(what, target, sum(asked.values()), "calls", ok, reason)
