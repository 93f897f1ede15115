"""`agentflow up` as a process, and nights of its deployment `nightly-data`, counted by the services they ask.

In: a root and two stand-ins of the caller's. Out: what a night took and what it asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from agentflow.services.server import LocalService
from benchmarks.commands import NOT_COLD, tail
from flows.local import free_port

DEPLOYMENT = "nightly-data/nightly-data"
POLL_S = 0.2
UP_S, NIGHT_S = 300.0, 900.0
STOP_S = 90.0


@dataclass(frozen=True)
class Night:
    """A night that ended."""

    run_id: UUID
    state: str
    # The type of its last state: COMPLETED, FAILED, ...
    message: str
    wall_s: float
    # From the order to the end, with the worker's look for work and the start of a process.
    teacher: Counter[str]
    search: Counter[str]
    # Requests by sha256 of their body: how often each was asked.
    failed: Counter[str] = field(default_factory=Counter)
    # The searches among them that the service was told to fail.
    batches: tuple[str, ...] = ()
    # Names of the search batches that ended red.


class Machine:
    """A running `agentflow up` and the stand-ins its nights ask."""

    def __init__(self, root: Path, teacher: LocalService, search: LocalService) -> None:
        self.root, self.teacher, self.search = root, teacher, search
        self.port = free_port(None, "Prefect server")
        self.api = f"http://127.0.0.1:{self.port}/api"
        self._log = root / "up.log"

    @contextmanager
    def running(self) -> Iterator[SyncPrefectClient]:
        """`agentflow up` until the block is left; a client of its server. Raises RuntimeError if it fails to start."""
        environment = {name: value for name, value in os.environ.items() if name not in NOT_COLD}
        environment |= {"AGENTFLOW_TEACHER_URL": self.teacher.base_url, "AGENTFLOW_SEARCH_URL": self.search.base_url}
        command = [sys.executable, "-m", "flows.cli", "up", f"--root={self.root}", f"--port={self.port}"]
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            _wait(lambda: "Ctrl-C stops everything" in self._said() or process.poll() is not None, UP_S, "agentflow up")
            if process.poll() is not None:
                raise RuntimeError(f"agentflow up ended with {process.returncode}: {tail(self._said())}")
            with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _said(self) -> str:
        return self._log.read_text(errors="replace")

    def night(
        self, client: SyncPrefectClient, parameters: dict[str, Any], faults: Sequence[dict[str, Any]] = ()
    ) -> Night:
        """Order a night as the UI's form does, and wait for its end; meanwhile the searches have `faults`."""
        self._count_anew()
        self.search.set_faults(faults)
        started = time.monotonic()
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"run": parameters})
        return self._ended(client, run.id, 1, started)

    def retry(self, client: SyncPrefectClient, night: Night) -> Night:
        """`prefect flow-run retry` on a night whose faults are mended, and wait for its end."""
        self._count_anew()
        started = time.monotonic()
        runs = client.read_flow_run(night.run_id).run_count
        command = [sys.executable, "-m", "prefect", "flow-run", "retry", str(night.run_id)]
        environment = {**os.environ, "PREFECT_API_URL": self.api}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(
                f"prefect flow-run retry ended with {done.returncode}: {tail(done.stdout + done.stderr)}"
            )
        return self._ended(client, night.run_id, runs + 1, started)

    def _count_anew(self) -> None:
        for service in (self.teacher, self.search):
            service.reset()

    def _ended(self, client: SyncPrefectClient, run_id: UUID, attempt: int, started: float) -> Night:
        def read() -> FlowRun:
            return client.read_flow_run(run_id)

        def final() -> bool:
            run = read()
            return run.run_count >= attempt and run.state is not None and run.state.is_final()

        _wait(final, NIGHT_S, f"the end of night {run_id}")
        wall_s = time.monotonic() - started
        run = read()
        assert run.state is not None
        history = self.search.history()
        return Night(
            run_id,
            run.state.type.value,
            run.state.message or "",
            wall_s,
            Counter(entry["sha256"] for entry in self.teacher.history()),
            Counter(entry["sha256"] for entry in history),
            Counter(entry["sha256"] for entry in history if entry["status"] == 500),
            _red_batches(client, run_id),
        )


def _red_batches(client: SyncPrefectClient, run_id: UUID) -> tuple[str, ...]:
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    tasks = client.read_task_runs(flow_run_filter=mine, limit=200)
    red = {task.name for task in tasks if task.state is not None and task.state.is_failed()}
    return tuple(sorted(name for name in red if name.startswith("tool_insertion ")))


def _wait(condition: Callable[[], bool], longest_s: float, what: str) -> None:
    deadline = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {longest_s:.0f} s for {what}")
        time.sleep(POLL_S)
