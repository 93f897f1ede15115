"""Nights on a real `agentflow up`: the same edition again, a new edition of searches, and the Retry of a failed one.

In: nothing; it brings its own stand-ins, whose own counts are compared. Out: one row per line of the project's table.
The nights are those of the smoke recipe with more questions; the Retry is `prefect flow-run retry` (the same in the
browser is a test: tests/ui).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentflow.services.server import LocalService
from benchmarks.commands import bench_root
from benchmarks.deployed_nights import Machine, Night
from benchmarks.operations_overhead import settings
from benchmarks.row import Row
from benchmarks.sizes import sized
from flows.recipes import load_recipe

ROWS, BATCH = sized(240, 24), sized(6, 4)
FAILING = sized(0.1, 0.3)
# Share of the searches that fail for ever on the last night, chosen by hash.
SECOND_NIGHT_S = 60.0
REGENERATED, FAILED = "2026-01-31", "2026-02-01"


def rows() -> Iterator[Row]:
    """The rows, in the order the nights happen."""
    chosen = (*settings(ROWS, BATCH), "search.max_attempts=1")
    recipe = load_recipe("smoke", chosen)
    local, corpus = recipe.teacher.local, recipe.search.local
    teacher = LocalService("teacher", wrong_rate=0.0, seed=local.seed, world_seed=local.world_seed)
    search = LocalService("search", world_seed=corpus.world_seed)
    common: dict[str, Any] = {"recipe": "smoke", "settings": list(chosen)}
    anew = {**common, "regenerate": "search"}
    with bench_root() as bench, tempfile.TemporaryDirectory(prefix="nights-", dir=bench) as folder, teacher, search:
        machine = Machine(Path(folder, "runs"), teacher, search)
        with machine.running() as client:
            first = machine.night(client, common)
            yield same_edition(first, machine.night(client, common))
            yield new_edition(first, machine.night(client, {**anew, "night": REGENERATED}))
            rule = {"kind": "status", "status": 500, "share": FAILING}
            failed = machine.night(client, {**anew, "night": FAILED}, [rule])
            batches = math.ceil(ROWS / BATCH)
            what = f"Retry after {len(failed.batches)} failed of {batches} search batches (`prefect flow-run retry`)"
            if failed.state != "FAILED":
                reason = f"the night whose searches were to fail ended {failed.state}: {failed.message[:200]}"
                yield Row.done(what, "", "", "", False, reason)
                return
            yield retried(what, failed, machine.retry(client, failed))


def same_edition(first: Night, second: Night) -> Row:
    """The row of a second nightly."""
    asked = second.teacher.total() + second.search.total()
    ok = (first.state, second.state) == ("COMPLETED", "COMPLETED") and asked == 0 and second.wall_s <= SECOND_NIGHT_S
    reason = f"{asked} calls by the services' own count; {_first(first)}{_said(second)}"
    target = f"≤ {SECOND_NIGHT_S:.0f} s, 0 paid calls"
    return Row.done("a second nightly of the same edition", target, round(second.wall_s, 1), "s", ok, reason)


def new_edition(first: Night, night: Night) -> Row:
    """The row of a night with `regenerate: search`."""
    ok = night.state == "COMPLETED" and night.search == first.search and not night.teacher and bool(night.search)
    reason = (
        f"{night.search.total()} searches, {'the same' if night.search == first.search else 'not the same'} as the "
        f"first night's; {night.teacher.total()} teacher calls; {_first(first)}{_said(night)}"
    )
    target = "exactly the search calls are paid again, teacher answers replayed"
    what = "a nightly of a new edition with `regenerate: search`: calls"
    return Row.done(what, target, night.search.total() + night.teacher.total(), "calls", ok, reason)


def retried(what: str, failed: Night, again: Night) -> Row:
    """The row of a Retry."""
    exactly = sorted(again.search.elements()) == sorted(failed.failed)
    ok = again.state == "COMPLETED" and exactly and bool(failed.failed) and not again.teacher
    others = sum(count for body, count in again.search.items() if body not in failed.failed)
    reason = (
        f"first attempt: {failed.search.total()} searches, {len(failed.failed)} of them failed; Retry: {others} "
        f"searches of other queries, {again.teacher.total()} teacher calls, {again.wall_s:.0f} s{_said(again)}"
    )
    target = f"exactly the {len(failed.failed)} missing calls, by the service's own count"
    return Row.done(what, target, again.search.total(), "calls", ok, reason)


def _first(first: Night) -> str:
    return (
        f"first night: {first.wall_s:.0f} s, {first.teacher.total()} teacher calls, {first.search.total()} searches"
        f"{_said(first)}"
    )


def _said(night: Night) -> str:
    return "" if night.state == "COMPLETED" else f", ended {night.state}: {night.message[:200]}"
