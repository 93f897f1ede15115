"""What Prefect and Ray cost: the data stages of `smoke` as the pipeline's flow, against the stages called directly.

In: nothing; it brings the stand-ins, which both runs ask. Out: rows for the overhead and for what came before it. Each
run is a process of its own in an empty root, so both load what they need, and both make the same tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.commands import bench_root
from benchmarks.parts import measured
from benchmarks.row import Row
from benchmarks.sizes import sized
from flows.local import local_services
from flows.recipes import load_recipe

ROWS, BATCH = sized(400, 12), sized(8, 4)
SHARE, SECONDS = 0.15, 20.0
# The overhead may be the larger of this share of the direct calls and this many seconds.


def settings(rows: int, batch: int) -> tuple[str, ...]:
    """The smoke recipe with `rows` training questions, a quarter of them two-hop, in batches of `batch`.

    None of them is answered wrongly, so that both paid stages have the same number of batches.
    """
    two_hop = rows // 4
    return (
        f"questions.source.arithmetic_train={rows - two_hop}", "questions.source.arithmetic_templates=10",
        f"questions.source.two_hop_train={two_hop}", "questions.source.two_hop_templates=4",
        f"traces.batch_size={batch}", f"tool_insertion.batch_size={batch}", "teacher.local.wrong_rate=0",
    )  # fmt: skip


def rows() -> Iterator[Row]:
    """Start-up, and the overhead."""
    chosen = settings(ROWS, BATCH)
    with bench_root() as bench, local_services(load_recipe("smoke", chosen)) as (teacher, search):
        found = {}
        for how in ("direct", "flow"):
            root = bench / f"overhead-{how}"
            arguments = [how, f"--root={root}", f"--teacher={teacher}", f"--search={search}"]
            arguments += [f"--set={setting}" for setting in chosen]
            _empty(root)
            found[how] = measured("benchmarks.data_stages", arguments, bench / f"overhead-{how}.log")
    yield from compared(found["direct"], found["flow"], 2 * math.ceil(ROWS / BATCH))


def _empty(root: Path) -> None:
    """A root that nothing was made in."""
    if root.exists() and any(root.iterdir()):
        raise RuntimeError(f"{root} holds an earlier run; remove it, or give another AGENTFLOW_BENCH_ROOT")


def compared(direct: dict[str, Any], flow: dict[str, Any], batches: int) -> Iterator[Row]:
    """The rows of two results of `benchmarks.data_stages`."""
    yield Row.done("Prefect server and Ray, start-up", "", flow["start_s"], "s", True, "not part of the overhead below")
    overhead = flow["wall_s"] - direct["wall_s"]
    allowed = max(SHARE * direct["wall_s"], SECONDS)
    same = direct["digests"] == flow["digests"]
    by_stage = ", ".join(f"{name} {direct['stages'][name]:.1f}/{flow['stages'][name]:.1f}" for name in direct["stages"])
    reason = (
        f"called directly {direct['wall_s']:.1f} s, as flow {flow['wall_s']:.1f} s, server and Ray up; direct/flow by "
        f"stage in s: {by_stage}; {'same tables' if same else 'the tables differ'}; directly one batch after another, "
        "as flow as many at once as there are cores"
    )
    yield Row.done(
        f"overhead of Prefect and Ray, smoke data stages, {batches} paid batches",
        f"≤ {allowed:.0f} s (the larger of {100 * SHARE:.0f} % and {SECONDS:.0f} s)",
        round(overhead, 1),
        "s",
        overhead <= allowed and same,
        reason,
    )
