"""Ray Jobs on a real job server: a retry finds its job by the id."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
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
def client() -> Iterator[Any]:
    with RayNodes(dashboard=True) as nodes, _with_token(nodes):
        nodes.start("head")
        deadline = time.monotonic() + 120
        while True:
            try:
                opened = open_jobs(nodes.jobs)
                break
            except ConfigError:  # the dashboard comes up a little after its node
                assert time.monotonic() < deadline
                time.sleep(0.5)
        _skip_without_agent(opened)
        yield opened


def _skip_without_agent(client: Any) -> None:
    """Some machines' job servers never find the agent of their own node; then there is nothing to test against."""
    try:
        client.submit_job(entrypoint="true")
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        pytest.skip(f"Ray's job server takes no jobs on this machine: {str(error).strip()}")


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


def test_a_job_server_that_is_not_there_or_refuses_us_is_said(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no Ray job server answers at 'http://127.0.0.1:1'"):
        open_jobs("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="give the dashboard's address"):
        open_jobs("127.0.0.1:8265")
