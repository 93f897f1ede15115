"""Operations, measured: what Prefect and Ray cost, nights and their repair, many batches, and what is killed or leaks.

Only puts the parts together, each of which can be run alone; a part that fails ends as a row and the others go on.
The last part runs fault tests of the suite, which takes about half an hour. `AGENTFLOW_BENCH_QUICK=1` goes the whole
way with reduced sizes and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.parts import rows_of
from benchmarks.row import Row

PARTS = ("operations_overhead", "operations_nights", "operations_batches", "operations_faults")


def rows() -> Iterator[Row]:
    """The rows of every part."""
    return rows_of(PARTS)
