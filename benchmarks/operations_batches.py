"""How many batch tasks a Prefect server carries: 200 on SQLite, 1,000 on PostgreSQL.

In: nothing; PostgreSQL is Debian's. Out: one row per database. A row is ok if every task ended Completed, no log tells
of a lock, and the server answered all the time (see `benchmarks.mapped_batches`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.commands import bench_root
from benchmarks.mapped_batches import lock_errors
from benchmarks.parts import measured
from benchmarks.postgresql import PostgresMissing, postgresql
from benchmarks.row import Row
from benchmarks.sizes import sized

ON_SQLITE, ON_POSTGRESQL = sized(200, 6), sized(1000, 8)
RESPONSIVE_S = 5.0
# Ours: nobody waits longer for a page of the UI.
TARGET = f"all Completed, no lock error, every query of the UI answered within {RESPONSIVE_S:.0f} s"
LEDGER = "ledger"
MODULE = "benchmarks.mapped_batches"


def rows() -> Iterator[Row]:
    """One row per database."""
    with bench_root() as bench:
        with tempfile.TemporaryDirectory(prefix="batches-", dir=bench) as folder:
            yield _measured(f"{ON_SQLITE} mapped batch tasks on SQLite", ON_SQLITE, Path(folder), [])
        what = f"{ON_POSTGRESQL:,} mapped batch tasks on PostgreSQL"
        try:
            with (
                postgresql(LEDGER) as server,
                tempfile.TemporaryDirectory(prefix="batches-", dir=bench) as folder,
            ):
                urls = [f"--database-url={server.url('postgres', 'postgresql+asyncpg')}"]
                urls += [f"--ledger-url={server.url(LEDGER)}"]
                yield _measured(what, ON_POSTGRESQL, Path(folder), urls)
        except PostgresMissing as missing:
            yield Row.not_run(what, TARGET, "s", str(missing))


def _measured(what: str, batches: int, folder: Path, urls: list[str]) -> Row:
    log = folder / "run.log"
    seen = measured(MODULE, [f"--root={folder / 'runs'}", f"--batches={batches}", *urls], log)
    seen["lock_errors"] += lock_errors(log.read_text(errors="replace"))
    return judged(what, batches, seen)


def judged(what: str, batches: int, seen: dict[str, Any]) -> Row:
    """The row of what `benchmarks.mapped_batches` saw."""
    complete = seen["states"] == {"COMPLETED": batches} and seen["rows"] == batches
    ok = complete and not seen["lock_errors"] and not seen["unanswered"] and seen["slowest_s"] <= RESPONSIVE_S
    states = ", ".join(f"{count} {state.capitalize()}" for state, count in seen["states"].items())
    reason = (
        f"{states}; {seen['lock_errors']} lock errors; {seen['queries']} queries meanwhile, {seen['unanswered']} not "
        f"answered, 95 % within {seen['p95_s']} s, the slowest {seen['slowest_s']} s; the measured time is the flow's"
    )
    return Row.done(what, TARGET, seen["wall_s"], "s", ok, reason)
