"""Commands as a user would type them, measured: how long, with which exit code, and what they said.

In: a command, and `AGENTFLOW_BENCH_ROOT` (default: a temporary folder that is removed). Out: what a row needs of it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.row import Row

REPO = Path(__file__).resolve().parents[1]
NOT_COLD = ("AGENTFLOW_ROOT", "AGENTFLOW_LEDGER", "AGENTFLOW_TEACHER_URL", "AGENTFLOW_SEARCH_URL",
            "PREFECT_API_URL", "RAY_ADDRESS")  # fmt: skip
# Variables that point at a ledger, a server or a cluster that somebody else filled.
LONGEST_S = 3600
# Of one command; then it is interrupted and counts as failed.


@contextmanager
def bench_root() -> Iterator[Path]:
    """The folder everything is made in."""
    given = os.environ.get("AGENTFLOW_BENCH_ROOT")
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int  # 124 if it ran into LONGEST_S
    wall_s: float
    output: str  # standard output and error, as they came


def execute(command: Sequence[str], log: Path, cwd: Path = REPO, longest_s: float = LONGEST_S) -> Ran:
    """Run `command`, its output into `log`. Nothing of the caller's own set-up is used: it would not be cold."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_COLD}
    started = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            code = process.wait(longest_s)
        except subprocess.TimeoutExpired:
            code = 124
            process.send_signal(signal.SIGINT)  # it stops its own servers and workers
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return Ran(code, time.monotonic() - started, log.read_text(errors="replace"))


def tail(text: str, lines: int = 3) -> str:
    """The last lines that say something."""
    return " | ".join([line for line in text.splitlines() if line.strip()][-lines:])[-400:]


def failure(ran: Ran) -> str:
    """Why `ran` failed, for a row's reason; "" if it did not."""
    return "" if ran.code == 0 else f"exit code {ran.code}: {tail(ran.output)}"


def pytest_row(what: str, target: str, arguments: Sequence[str], log: Path, longest_s: float) -> Row:
    """Seconds of a test run; not ok if a test failed or it took longer, not run if all were skipped."""
    if os.environ.get("AGENTFLOW_BENCH_TESTS") == "0":
        return Row.not_run(what, target, "s", "left out by AGENTFLOW_BENCH_TESTS=0; .ci/run runs these tests")
    ran = execute([sys.executable, "-m", "pytest", "-q", "-rs", *arguments], log)
    if ran.code == 0 and not re.search(r"\b\d+ passed", ran.output):
        return Row.not_run(what, target, "s", tail(ran.output))
    ok = ran.code == 0 and ran.wall_s <= longest_s
    return Row.done(what, target, round(ran.wall_s, 1), "s", ok, tail(ran.output, 1))
