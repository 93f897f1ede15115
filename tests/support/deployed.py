"""`agentflow up` as a process of a test's own, with what a person does on it: start a run, look at it, retry it.

In: a root and services that the test owns (their counts outlive whatever is killed). Out: states and processes, as the
server and the machine say.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from agentflow.services.server import LocalService
from flows.local import free_port

POLL_S = 0.2
PATIENCE_S = 600.0
BUSY_TIMES = 10
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
ON_ITS_OWN = ("PREFECT_API_URL", "RAY_ADDRESS", "AGENTFLOW_ROOT", "AGENTFLOW_LEDGER")
# What the surrounding test session may have set; `agentflow up` is to start its own.


class Up:
    """A running `agentflow up` below `root`, with the stand-ins `services` and whatever else is in `environment`."""

    def __init__(
        self,
        root: Path,
        services: tuple[LocalService, LocalService] | None,
        *flags: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.port = free_port(None, "Prefect server")
        self.environment = {name: value for name, value in os.environ.items() if name not in ON_ITS_OWN}
        if services is not None:
            urls = {"AGENTFLOW_TEACHER_URL": services[0].base_url, "AGENTFLOW_SEARCH_URL": services[1].base_url}
            self.environment |= urls
        self.environment |= environment or {}
        self.output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.command = [sys.executable, "-m", "flows.cli", "up", f"--root={root}", f"--port={self.port}", "--cpus=2"]
        self.process = subprocess.Popen(
            [*self.command, *flags],
            env=self.environment,
            stdout=self.output,
            stderr=self.output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def said(self) -> str:
        """Everything it printed until now."""
        self.output.seek(0)
        return self.output.read()

    def wait_until_up(self) -> Up:
        wait_for(lambda: "Ctrl-C stops everything" in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()[-4000:]
        return self

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, list[psutil.Process]]:
        """Send `number`; exit code, and the processes it started that are still alive after it ended."""
        children = self.descendants() if self.process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(90)
        _, alive = psutil.wait_procs(children, timeout=10)
        return code, alive

    # ------------------------------------------------ on the server
    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST with a body."""
        method = "GET" if body is None else "POST"
        with httpx.Client(base_url=self.api, timeout=60, trust_env=False, headers=self._credentials()) as client:
            if body is not None and "PREFECT_SERVER_CSRF_PROTECTION_ENABLED" in self.environment:
                token = client.get("/csrf-token", params={"client": "test"}).json()["token"]
                client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"})
            answer = client.request(method, f"/{path}", json=body)
            # What the server says where SQLite was busy; nothing was written. Prefect's own clients ask again too.
            for _ in range(BUSY_TIMES):
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                time.sleep(float(answer.headers.get("Retry-After", 1.0)))
                answer = client.request(method, f"/{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def _credentials(self) -> dict[str, str]:
        password = self.environment.get("PREFECT_API_AUTH_STRING")
        return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}

    def answers(self) -> bool:
        """Whether the server can be asked."""
        try:
            return httpx.get(f"{self.api}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def start_run(self, deployment: str, run: dict[str, Any], **more: Any) -> str:
        """Start a run of a deployment as the UI's form does; its id."""
        found = self.ask(f"deployments/name/{deployment}/{deployment}")
        body = {"parameters": {"run": run}, "state": {"type": "SCHEDULED"}, **more}
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def flow_run(self, run_id: str) -> dict[str, Any]:
        return dict(self.ask(f"flow_runs/{run_id}"))

    def wait_for_end(self, run_id: str, attempt: int = 1) -> dict[str, Any]:
        """The flow run when its `attempt`-th attempt has ended."""

        def ended() -> bool:
            run = self.flow_run(run_id)
            return run["run_count"] >= attempt and run["state_type"] in ENDED

        wait_for(ended)
        return self.flow_run(run_id)

    def task_runs(self, run_id: str) -> list[dict[str, Any]]:
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        return list(self.ask("task_runs/filter", body))

    def table(self, run_id: str, key: str) -> list[dict[str, Any]]:
        """Rows of the newest table artifact `key` of a run."""
        body = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run_id]}}, "sort": "CREATED_DESC"}
        return list(json.loads(self.ask("artifacts/filter", body)[0]["data"]))

    def process_of(self, run_id: str) -> psutil.Process | None:
        """The process in which a flow run is at work, if there is one."""
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == run_id.replace("-", ""):
                    return process
        return None

    def ray_workers(self) -> list[psutil.Process]:
        """Processes that Ray gave to the runs under way, at work or idle."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                name = " ".join(process.cmdline()).strip()
                if name.startswith("ray::") and not name.endswith("Agent"):
                    found.append(process)
        return found

    def logs(self, run_id: str) -> list[str]:
        """Log lines of a flow run and its tasks, oldest first."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return [entry["message"] for entry in self.ask("logs/filter", body)]

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `prefect` command line against this server."""
        return self.run("prefect", *arguments)

    def run(self, module: str, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """A command line of a person who uses this server; `changed` variables of the environment, "" for none."""
        environment = {**self.environment, "PREFECT_API_URL": self.api, "NO_COLOR": "1", **changed}
        environment = {name: value for name, value in environment.items() if value}
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def wait_for(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition` holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {patience_s:.0f} s"
        time.sleep(POLL_S)


@contextmanager
def running_up(
    root: Path,
    services: tuple[LocalService, LocalService] | None,
    *flags: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Up]:
    """`agentflow up`, ready; stopped at the end, whatever happened."""
    up = Up(root, services, *flags, environment=environment)
    try:
        yield up.wait_until_up()
    finally:
        up.stop()
        up.output.close()
