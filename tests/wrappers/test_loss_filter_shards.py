"""The loss filter on Ray: more workers, smaller batches or another order of the rows change nothing in its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_rows import tool_trace_rows
from prefect import flow
from prefect_ray import RayTaskRunner

from agentflow.models.filtering import SHARD_ROWS
from agentflow.records import Outcomes
from agentflow.schemas import TOOL_TRACES
from flows.plan import plan
from flows.recipes import load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of
from tasks.context import Resources, RunContext
from tasks.loss_filter import make_loss_filter
from tasks.making import Made
from tasks.simple import make_base_model

pytestmark = pytest.mark.faults

TOO_LONG = "clips " * 4000


@flow(name="filter", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def filtering(nodes: dict[str, Any], inserted: Made, where: RunContext) -> Made:
    """base_model and loss_filter of a plan."""
    base = make_base_model(nodes["base_model"].identity, nodes["base_model"].config, where)
    return make_loss_filter(nodes["loss_filter"].identity, nodes["loss_filter"].config, inserted, base, where)


def filtered(root: Path, rows: list[dict[str, Any]], settings: list[str], workers: int) -> Made:
    recipe = load_recipe("smoke", ["loss_filter.weighting=toolformer", "loss_filter.tau=0.0", *settings])
    nodes = plan(recipe)
    where = context_of(recipe, RunOptions(root=root, cpus=2), None, None)
    where = where.model_copy(update={"loss_filter": Resources(cpus=1, workers=workers)})
    identity = nodes["tool_insertion"].identity
    table = where.store().commit_table(identity, Outcomes(rows, [], len(rows), len(rows)), TOOL_TRACES, recipe="smoke")
    open_run_ledger(where, None)
    return filtering(nodes, Made("tool_insertion", table, "ran", 0.0), where)


def test_the_kept_set_is_the_same_for_any_order_batch_size_and_number_of_workers(tmp_path: Path, ray_up: None) -> None:
    rows = tool_trace_rows(SHARD_ROWS + 6)
    rows.append({**rows[0], "id": "long#0", "question": TOO_LONG})
    one = filtered(tmp_path / "one", rows, [], 1).artifact
    two = filtered(tmp_path / "two", rows[::-1], ["loss_filter.token_budget=128"], 2).artifact
    assert one.manifest.digest == two.manifest.digest
    assert one.ref == two.ref, "how fast it goes is no part of what it is"
    assert len({row["decision"] for row in one.rows()}) > 1, "rows that all end alike show nothing"
    (reject,) = one.rejects()
    assert (reject["key"], reject["status"], reject["reason"]) == ("long#0", "quarantined", "longer_than_context")
