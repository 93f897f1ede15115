"""Data generation, measured: teacher, retry of failed searches, loss filter, a million rows, equations, answer check.

Only puts the parts together, each of which can be run alone; a part that fails ends as a row and the others go on.
`AGENTFLOW_BENCH_QUICK=1` goes the whole way with reduced sizes and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.parts import rows_of
from benchmarks.row import Row

PARTS = ("data_insertion", "data_answers", "data_teacher", "data_retry", "data_filter", "data_rows")


def rows() -> Iterator[Row]:
    """The rows of every part."""
    return rows_of(PARTS)
