"""The rows of the benchmark of operations, from small hand-made results; and that the tests it runs exist."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agentflow.services.server import LocalService
from benchmarks import data_stages, operations_faults, operations_nights
from benchmarks.deployed_nights import Night
from benchmarks.mapped_batches import lock_errors
from benchmarks.operations_batches import judged
from benchmarks.operations_overhead import compared, settings
from flows.recipes import load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of


def ran(wall_s: float, digest: str = "a") -> dict[str, Any]:
    stages = {"traces": wall_s - 1, "loss_filter": 1.0}
    return {"wall_s": wall_s, "start_s": 12.0, "stages": stages, "digests": {"loss_filter": digest}}


def a_night(teacher: str = "", search: str = "", **more: Any) -> Night:
    """Every letter is a request; the same letter, the same request."""
    return Night(uuid4(), more.pop("state", "COMPLETED"), "", 30.0, Counter(teacher), Counter(search), **more)


# ---------------------------------------------------------------- overhead
@pytest.mark.parametrize(
    ("direct_s", "flow_s", "ok"), [(10, 29, True), (10, 31, False), (400, 455, True), (400, 465, False)]
)
def test_the_overhead_may_be_the_larger_of_a_share_and_of_seconds(direct_s: float, flow_s: float, ok: bool) -> None:
    start, overhead = compared(ran(direct_s), ran(flow_s), 100)
    assert start.measured == 12.0 and start.ok
    assert (overhead.measured, overhead.ok) == (flow_s - direct_s, ok)


def test_a_flow_that_makes_other_tables_is_not_compared() -> None:
    _, overhead = compared(ran(10), ran(11, digest="b"), 100)
    assert overhead.ok is False and "the tables differ" in overhead.reason


@pytest.mark.faults  # loads a model
def test_stages_called_directly_make_what_the_pipeline_makes_of_its_rows(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["upto=data", *settings(8, 3)])
    with LocalService("teacher", wrong_rate=0.0) as teacher, LocalService("search") as search:
        where = context_of(recipe, RunOptions(root=tmp_path), teacher.base_url, search.base_url)
        where.store()
        open_run_ledger(where, None)
        result = data_stages.run_direct(recipe, where)
        assert teacher.stats()["paid"] >= 8 and search.stats()["paid"] > 0
    assert set(result["digests"]) == set(data_stages.TABLES)
    assert set(result["stages"]) == {"base_model", *data_stages.TABLES}
    kept = where.store().latest("loss_filter")
    assert kept is not None and kept.manifest.keys_in == 8


# ---------------------------------------------------------------- nights
def test_a_second_night_may_ask_nothing() -> None:
    first = a_night("ttt", "abc")
    assert operations_nights.same_edition(first, a_night()).ok
    assert operations_nights.same_edition(first, a_night(search="a")).ok is False
    slow = dataclasses.replace(a_night(), wall_s=61.0)
    assert operations_nights.same_edition(first, slow).ok is False


@pytest.mark.parametrize(
    ("teacher", "search", "ok"), [("", "abc", True), ("", "ab", False), ("", "abcc", False), ("t", "abc", False)]
)
def test_a_new_edition_of_searches_asks_exactly_the_searches(teacher: str, search: str, ok: bool) -> None:
    row = operations_nights.new_edition(a_night("ttt", "abc"), a_night(teacher, search))
    assert row.ok is ok


@pytest.mark.parametrize(("asked", "ok"), [("bc", True), ("b", False), ("bcc", False), ("abc", False)])
def test_a_retry_asks_exactly_what_failed_and_each_once(asked: str, ok: bool) -> None:
    failed = a_night("", "abc", state="FAILED", failed=Counter("bc"), batches=("tool_insertion 1/2",))
    row = operations_nights.retried("Retry", failed, a_night(search=asked))
    assert (row.ok, row.measured) == (ok, len(asked))


# ---------------------------------------------------------------- many batches
def seen(**changes: Any) -> dict[str, Any]:
    good = {"wall_s": 60.0, "states": {"COMPLETED": 200}, "rows": 200, "lock_errors": 0}
    return {**good, "queries": 300, "unanswered": 0, "slowest_s": 0.4, "p95_s": 0.1, **changes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"states": {"COMPLETED": 199, "RUNNING": 1}},
        {"rows": 199},
        {"lock_errors": 1},
        {"unanswered": 1},
        {"slowest_s": 5.1},
    ],
)
def test_many_batches_are_carried_only_if_nothing_at_all_went_wrong(wrong: dict[str, Any]) -> None:
    assert judged("200 tasks", 200, seen()).ok
    assert judged("200 tasks", 200, seen(**wrong)).ok is False


def test_lock_errors_are_counted_by_line() -> None:
    assert lock_errors("ok\nsqlite3.OperationalError: database is locked\nfine\nERROR: deadlock detected\n") == 2


# ---------------------------------------------------------------- fault tests
def test_every_test_that_the_benchmark_runs_exists(repository: Path) -> None:
    for _, tests in operations_faults.TESTS.values():
        for test in tests:
            file, _, name = test.partition("::")
            assert (f"def {name}(" if name else "def test_") in (repository / file).read_text()
