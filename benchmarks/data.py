"""Data generation, measured: teacher, retry of failed searches, loss filter, a million rows, equations, answer check.

Only puts the parts together, each of which can be run alone; a part that fails ends as a row and the others go on.
`AGENTFLOW_BENCH_QUICK=1` goes the whole way with reduced sizes and measures nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Iterator

from benchmarks.row import Row
from benchmarks.sizes import marked

PARTS = ("data_insertion", "data_teacher", "data_retry", "data_filter", "data_rows")


def rows() -> Iterator[Row]:
    """The rows of every part."""
    for part in PARTS:
        module = f"benchmarks.{part}"
        if importlib.util.find_spec(module) is None:
            yield Row.not_run(f"benchmark part {part}", "", "", f"there is no module {module}")
            continue
        try:
            yield from marked(importlib.import_module(module).rows())
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            yield Row.done(f"benchmark part {part} runs to its end", "no error", "stopped", "", False, reason)
