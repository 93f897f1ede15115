"""The automations of `agentflow up` on a real server: who is told what, and what ends a run whose process is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import httpx
import pytest
from deployed import wait_for
from prefect import flow, tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.states import Scheduled

from flows.registering import NOTIFICATION, automate

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
# Says its id, then does nothing for ever; `agentflow run` and the deployments send signs of life as often.
SILENT = """
import time
from prefect import flow, tags
from prefect.runtime import flow_run
@flow
def silent():
    print(flow_run.id, flush=True)
    time.sleep(3600)
with tags(*{tags!r}):
    silent()
"""


@pytest.fixture(scope="module")
def told(prefect_api: str) -> Iterator[list[str]]:
    """What the notification block `agentflow` was asked to say, newest last."""
    said: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    block = CustomWebhookNotificationBlock(name="hook", url=url, json_data={"text": "{{subject}}: {{body}}"})
    block.save(NOTIFICATION, overwrite=True)
    with get_client(sync_client=True) as client:
        automate(client)
    yield said
    server.shutdown()
    server.server_close()


def test_a_failed_run_is_told_with_its_reason(told: list[str]) -> None:
    @flow(name="night")
    def broken() -> None:
        raise RuntimeError("the teacher is down")

    with pytest.raises(RuntimeError), tags("agentflow"):
        broken.with_options(flow_run_name="night-of-the-31st")()
    with pytest.raises(RuntimeError):
        broken.with_options(flow_run_name="not-ours")()
    wait_for(lambda: any("night-of-the-31st" in line for line in told), 120)
    (line,) = (line for line in told if "night-of-the-31st" in line)
    assert line.startswith("agentflow: night-of-the-31st is Failed: ") and "the teacher is down" in line
    assert not any("not-ours" in line for line in told)


def test_a_night_that_nobody_starts_is_told(told: list[str]) -> None:
    @flow(name="nightly-data")
    def night() -> None:
        """Never started."""

    due = datetime.now(UTC) - timedelta(minutes=10)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(flow_id=client.create_flow(night), name="nightly-data")
        run = client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=due))
        wait_for(lambda: any(run.name in line for line in told), 120)
        assert client.read_flow_run(run.id).state_name == "Late"
    (line,) = (line for line in told if run.name in line)
    assert line.startswith(f"agentflow: {run.name} should have started at {due:%Y-%m-%d}")


def test_a_run_whose_process_is_gone_ends_as_crashed_and_says_why_and_others_are_left_alone(
    told: list[str], prefect_api: str
) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    runs: list[UUID] = []
    for own in ([], ["agentflow"]):
        code = SILENT.format(tags=own)
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        runs.append(UUID(process.stdout.readline().strip()))
        wait_for(lambda: heartbeats(prefect_api, runs[-1]), 120)
        process.kill()
        process.wait()
    other, ours = runs
    with get_client(sync_client=True) as client:
        wait_for(lambda: client.read_flow_run(ours).state_type.value == "CRASHED", 240)
        state = client.read_flow_run(ours).state
        assert state is not None and state.message is not None and state.message.startswith("No sign of life for 90 s")
        assert client.read_flow_run(other).state_type.value == "RUNNING", "silent for longer, but not ours to judge"
        name = client.read_flow_run(ours).name
    wait_for(lambda: any(f"{name} is Crashed: No sign of life" in line for line in told), 120)


def heartbeats(api: str, run_id: UUID) -> bool:
    """Whether the server knows a sign of life of that run."""
    resource = {"id": [f"prefect.flow-run.{run_id}"]}
    body = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": resource}}
    answer = httpx.post(f"{api}/events/filter", json=body, timeout=30)
    answer.raise_for_status()
    return bool(answer.json()["total"])
