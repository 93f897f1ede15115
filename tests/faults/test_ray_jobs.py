"""Ray Jobs on a real job server: a retry finds its job by the id."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployed import wait_for
from ray._private.authentication_test_utils import reset_auth_token_state
from ray_nodes import RayNodes

from agentflow.errors import ConfigError, JobFailed
from tasks.ray_jobs import Job, make_by_job, open_jobs

pytestmark = pytest.mark.faults
log = logging.getLogger(__name__)

# Counts its starts in a file, says something, waits until a file is there, and ends with the code that stands in it.
SCRIPT = """
import os, sys, time
with open(sys.argv[1] + ".starts", "a") as starts:
    starts.write("x")
print("working on it", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
sys.exit(int(open(sys.argv[1]).read()))
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A head that takes jobs, and this process as one that knows its token."""
    with RayNodes(dashboard=True) as nodes, _with_token(nodes):
        nodes.start("head")
        yield nodes


@pytest.fixture(scope="module")
def client(nodes: RayNodes) -> Any:
    """A client of its job server."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return open_jobs(nodes.jobs)
        except ConfigError:  # the dashboard comes up a little after its node
            assert time.monotonic() < deadline
            time.sleep(0.5)


@contextmanager
def _with_token(nodes: RayNodes) -> Iterator[None]:
    """This process as one that was started with the cluster's token: Ray reads mode and token once a process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        reset_auth_token_state()
        yield
    reset_auth_token_state()


class Work:
    """A job whose end the test decides."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._end = folder / fingerprint
        self.job = Job("smoke", fingerprint, [sys.executable, "-c", SCRIPT, str(self._end)])

    def end(self, code: int) -> None:
        self._end.write_text(str(code))

    @property
    def starts(self) -> int:
        path = Path(f"{self._end}.starts")
        return len(path.read_text()) if path.exists() else 0

    def wait_for_start(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while self.starts < count:
            assert time.monotonic() < deadline, "the job did not start"
            time.sleep(0.1)


def test_a_failed_job_says_why_and_a_retry_is_the_next_attempt_that_is_then_reused(client: Any, tmp_path: Path) -> None:
    work = Work(tmp_path, "aaa111")
    work.end(3)
    with pytest.raises(JobFailed, match=r"agentflow-smoke-aaa111-1 ended FAILED; its last lines: .*working on it"):
        make_by_job(client, work.job, log)
    work.end(0)
    assert make_by_job(client, work.job, log) == "agentflow-smoke-aaa111-2"
    assert make_by_job(client, work.job, log) == "agentflow-smoke-aaa111-2"
    assert work.starts == 2
    # Its results were removed since: made again, and said if they then still are not there.
    with pytest.raises(JobFailed, match="agentflow-smoke-aaa111-3 succeeded, but its results are not in this store"):
        make_by_job(client, work.job, log, lambda: False)


def test_a_retry_waits_for_the_job_that_runs_already(client: Any, tmp_path: Path) -> None:
    work = Work(tmp_path, "bbb222")
    done: list[str] = []
    waiting = [threading.Thread(target=lambda: done.append(make_by_job(client, work.job, log))) for _ in range(2)]
    waiting[0].start()
    work.wait_for_start(1)
    waiting[1].start()
    time.sleep(1)
    work.end(0)
    for thread in waiting:
        thread.join(120)
    assert done == ["agentflow-smoke-bbb222-1"] * 2 and work.starts == 1


def test_a_cancelled_wait_stops_its_job(client: Any, tmp_path: Path) -> None:
    work = Work(tmp_path, "ccc333")

    def cancelled() -> bool:
        work.wait_for_start(1)
        raise KeyboardInterrupt

    class Cancelling(logging.LoggerAdapter[logging.Logger]):
        """Cancels when the job is said to be running."""

        def info(self, message: Any, *args: Any, **_: Any) -> None:
            if args[1:] == ("RUNNING",):
                cancelled()

    with pytest.raises(KeyboardInterrupt):
        make_by_job(client, work.job, Cancelling(log, {}))
    assert client.get_job_status("agentflow-smoke-ccc333-1").value == "STOPPED"
    work.end(0)
    assert make_by_job(client, work.job, log) == "agentflow-smoke-ccc333-2"


def test_a_wait_that_ends_for_another_reason_leaves_its_job_running(client: Any, tmp_path: Path) -> None:
    work = Work(tmp_path, "eee555")

    class Ending(logging.LoggerAdapter[logging.Logger]):
        """Ends the wait when the job is said to be running."""

        def info(self, message: Any, *args: Any, **_: Any) -> None:
            if args[1:] == ("RUNNING",):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_by_job(client, work.job, Ending(log, {}), unwanted=lambda: False)
    assert client.get_job_status("agentflow-smoke-eee555-1").value == "RUNNING"
    work.end(0)
    assert make_by_job(client, work.job, log) == "agentflow-smoke-eee555-1" and work.starts == 1


def test_a_wait_that_is_cancelled_as_soon_as_it_has_submitted_stops_its_job(client: Any, tmp_path: Path) -> None:
    work = Work(tmp_path, "ddd444")

    class Cancelling(logging.LoggerAdapter[logging.Logger]):
        """Cancels before anybody waits."""

        def info(self, message: Any, *args: Any, **_: Any) -> None:
            if str(message).startswith("submitted"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_by_job(client, work.job, Cancelling(log, {}))
    assert client.get_job_status("agentflow-smoke-ddd444-1").value == "STOPPED"


def test_a_job_server_that_is_not_there_or_refuses_us_is_said(
    nodes: RayNodes, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no Ray job server answers at 'http://127.0.0.1:1'"):
        open_jobs("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="give the dashboard's address"):
        open_jobs("127.0.0.1:8265")
    other = tmp_path / "token"
    other.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    reset_auth_token_state()
    try:
        with pytest.raises(ConfigError, match="give this process its token"):
            open_jobs(nodes.jobs)
    finally:
        monkeypatch.undo()
        reset_auth_token_state()


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_run_without_the_clusters_token_is_told_so(nodes: RayNodes, tmp_path: Path, token: str) -> None:
    environment = {**os.environ, **nodes.environment, "HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_TOKEN_PATH")
    environment |= {"RAY_AUTH_TOKEN": token} if token else {}
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        "smoke",
        f"--root={tmp_path}",
        f"--ray-address={nodes.address}",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and nodes.address in message and "RAY_AUTH_TOKEN_PATH" in message


FLOW = """
from flows.ray_jobs import RunParameters, train_on_cluster
train_on_cluster(RunParameters(recipe="smoke", settings=("upto=data", "questions.source.arithmetic_train=12")))
"""


class ClusterFlow:
    """`train-on-cluster` in a process of its own, as a worker starts it."""

    def __init__(self, nodes: RayNodes, root: Path, api: str) -> None:
        surroundings = {"PREFECT_API_URL": api, "AGENTFLOW_JOBS": nodes.jobs, "AGENTFLOW_ROOT": str(root)}
        self._log = root / f"flow-{time.monotonic_ns()}.log"
        with open(self._log, "w") as log:
            given = {**os.environ, **nodes.environment, **surroundings}
            self.process = subprocess.Popen([sys.executable, "-c", FLOW], env=given, stdout=log, stderr=log)

    def wait_until_it_says(self, text: str) -> None:
        wait_for(lambda: text in self.said() or self.process.poll() is not None, 300)
        assert text in self.said(), self.said()

    def said(self) -> str:
        return self._log.read_text()


def ask(api: str, path: str, body: dict[str, Any]) -> Any:
    """POST to Prefect."""
    answer = httpx.post(f"{api}/{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def runs(api: str, name: str, *states: str) -> list[dict[str, Any]]:
    """Runs of a flow in one of `states`."""
    body = {"flows": {"name": {"any_": [name]}}, "flow_runs": {"state": {"type": {"any_": states}}}}
    return list(ask(api, "flow_runs/filter", body))


@pytest.mark.timeout(1200)
def test_only_cancel_stops_the_job_of_a_flow_and_the_next_flow_finds_or_finishes_it(
    nodes: RayNodes, client: Any, tmp_path: Path, prefect_api: str
) -> None:
    def jobs() -> dict[str, str]:
        return {job.submission_id: job.status.value for job in client.list_jobs() if job.submission_id}

    before = jobs()
    terminated = ClusterFlow(nodes, tmp_path, prefect_api)
    terminated.wait_until_it_says(": RUNNING")
    terminated.process.terminate()  # what a worker does that is stopped itself
    assert terminated.process.wait(120) != 0
    (job,) = jobs().keys() - before.keys()
    assert job.endswith("-1") and jobs()[job] == "RUNNING"
    assert f"the waiting ends, {job} goes on" in terminated.said()

    cancelled = ClusterFlow(nodes, tmp_path, prefect_api)
    cancelled.wait_until_it_says(f"{job} is RUNNING already; waiting for it")
    wait_for(lambda: bool(runs(prefect_api, "pipeline", "RUNNING")), 300)
    (run,) = runs(prefect_api, "train-on-cluster", "RUNNING")
    ask(prefect_api, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    cancelled.process.terminate()  # what a worker does with a run that is cancelled
    assert cancelled.process.wait(120) != 0
    assert jobs()[job] == "STOPPED"
    assert not list((tmp_path / "artifacts").glob("loss_filter/[!.]*"))
    # The run inside had the time to say how it ended.
    assert runs(prefect_api, "pipeline", "RUNNING") == []
    assert '"failed"' in (tmp_path / "smoke" / "report.json").read_text()

    last = ClusterFlow(nodes, tmp_path, prefect_api)
    assert last.process.wait(600) == 0, last.said()
    assert jobs()[f"{job[:-2]}-2"] == "SUCCEEDED"
    assert list((tmp_path / "artifacts").glob("loss_filter/[!.]*"))
