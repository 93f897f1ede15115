"""The data stages as processes that a test starts, watches and kills.

In: a root and services that the test owns. Out: digests, or what was said; whatever a killed process started must die.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import data_flow
import psutil

from agentflow.services.server import LocalService

POLL_S = 0.02
SETTINGS = (
    "traces.batch_size=6",
    "tool_insertion.batch_size=6",
    "teacher.concurrency=2",
    "teacher.local.latency_ms=400",
    "search.local.latency_ms=200",
)
# Slow enough to be hit in the middle; none of it is part of any identity.


@dataclass
class Undisturbed:
    """What a run that nothing happens to makes and pays."""

    digests: dict[str, Any]
    paid: int

    def until(self, stage: str) -> dict[str, Any]:
        """Digests of the tables up to `stage`."""
        names = list(self.digests)
        return {name: self.digests[name] for name in names[: names.index(stage) + 1]}


class DataProcess:
    """One run of `data_flow` as the leader of its own process group. Its output goes to files, so it never blocks."""

    def __init__(
        self,
        root: Path,
        services: Sequence[LocalService],
        settings: Sequence[str] = (),
        environment: dict[str, str | None] | None = None,
        wrapper: Sequence[str] = (),
        until: str = "loss_filter",
    ) -> None:
        flags = [f"--until={until}"]
        flags += [f"--{service.service}={service.base_url}" for service in services]
        flags += [f"--set={setting}" for setting in settings]
        changed = {**os.environ, **(environment or {})}
        self._stdout: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self._stderr: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, data_flow.__file__, f"--root={root}", *flags],
            env={name: value for name, value in changed.items() if value is not None},
            stdout=self._stdout,
            stderr=self._stderr,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 240) -> bool:
        """Whether `condition` became true while the process was running."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            if condition():
                return True
            assert time.monotonic() < deadline, f"nothing happened in {timeout_s:.0f} s: {self.stderr()[-3000:]}"
            time.sleep(POLL_S)
        return condition()

    def descendants(self) -> list[psutil.Process]:
        """All processes it started, and those they started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self, *, everything: bool = True) -> float:
        """SIGKILL for the process group and (`everything`) all descendants at once; returns the instant.

        Fails if a descendant outlives the group by 20 s.
        """
        children = self.descendants()
        instant = time.time()
        os.killpg(self.process.pid, signal.SIGKILL)
        for child in children if everything else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, f"orphans: {[' '.join(process.cmdline()) for process in alive]}"
        return instant

    def finish(self, timeout_s: float = 300) -> dict[str, Any]:
        """Wait for success; the JSON of its last line."""
        code = self.process.wait(timeout_s)
        assert code == 0, self.stderr()[-5000:]
        return json.loads(self.stdout().strip().splitlines()[-1])

    def fail(self, timeout_s: float = 300) -> str:
        """Wait for a failure that is said in a message; its stderr."""
        code = self.process.wait(timeout_s)
        assert code not in (0, None), self.stdout()
        return self.stderr()

    def stdout(self) -> str:
        self._stdout.seek(0)
        return self._stdout.read()

    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()


def paid(services: Sequence[LocalService]) -> int:
    """Work the services have done, by their own counts."""
    return sum(service.stats()["paid"] for service in services)


def visible(root: Path) -> dict[str, list[Path]]:
    """Artifact folders a reader sees below a root, by stage."""
    stages = (path for path in (root / "artifacts").iterdir() if path.is_dir())
    return {stage.name: [p for p in stage.iterdir() if not p.name.startswith(".")] for stage in stages}
