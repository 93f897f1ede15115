"""Reduced sizes: with `AGENTFLOW_BENCH_QUICK=1` a benchmark goes its whole way in minutes and measures nothing.

In: a full and a reduced size. Out: the one to use, and rows that say that they were only tried. `benchmarks.run` writes
no result then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from benchmarks.row import Row

Size = TypeVar("Size")


def quick() -> bool:
    """Whether reduced sizes were asked for."""
    return os.environ.get("AGENTFLOW_BENCH_QUICK", "0") not in ("", "0")


def sized(full: Size, reduced: Size) -> Size:
    """`full`, or `reduced` where reduced sizes were asked for."""
    return reduced if quick() else full


def marked(rows: Iterable[Row]) -> Iterator[Row]:
    """`rows` as they are at full size; at reduced sizes none of them counts as measured."""
    for row in rows:
        if row.ran and quick():
            seen = f"{row.measured} {row.unit}".strip()
            reason = f"reduced size, not measured ({seen}; {row.reason})"
            yield Row.not_run(row.what, row.target, row.unit, reason)
        else:
            yield row
