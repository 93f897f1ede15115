"""kill -9 in the middle of the data stages: the next run ends with the same content and pays again only what was in
flight. Counts are the services' own.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from processes import SETTINGS, DataProcess, Undisturbed, paid, visible

from agentflow.artifacts.artifact import Artifact
from agentflow.services.server import LocalService

pytestmark = pytest.mark.faults
SEED = 20240611
UNTIL = "tool_insertion"
# The last paid data stage.
IN_FLIGHT_SLACK_S = 0.3
# An answer that has left the service still has to be read and stored before it is safe.


@pytest.mark.timeout(1200)
def test_five_kills_at_random_times_change_nothing_and_repay_only_calls_in_flight(
    services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    # Four among the paid calls, wherever the run then is; one while the losses are scored.
    thresholds = sorted(rng.sample(range(1, undisturbed.paid - 2), 4))
    kills: list[float] = []
    for threshold in thresholds:
        run = DataProcess(tmp_path, services, SETTINGS)
        assert run.wait_until(lambda at=threshold: paid(services) >= at)
        time.sleep(rng.uniform(0, 0.3))
        kills.append(run.kill())
    run = DataProcess(tmp_path, services, SETTINGS)
    assert run.wait_until(lambda: bool(visible(tmp_path).get("tool_insertion")))
    time.sleep(rng.uniform(0, 5))
    kills.append(run.kill(everything=False))  # what it started ends by itself

    for folders in visible(tmp_path).values():
        for folder in folders:
            Artifact(folder).verify()
    assert DataProcess(tmp_path, services, SETTINGS).finish()["digests"] == undisturbed.digests
    extra, in_flight = _paid_again(services, kills)
    assert in_flight > 0, "no kill came in the middle of a call; another seed is needed"
    print(f"kills at {thresholds} and in the filter; {extra} of {in_flight} calls in flight were paid again")
    assert paid(services) == undisturbed.paid + extra <= undisturbed.paid + in_flight


def _paid_again(services: tuple[LocalService, LocalService], kills: list[float]) -> tuple[int, int]:
    """Calls paid more than once, all of which must have been in flight at a kill; and all calls that were."""
    extra = in_flight = 0
    for service in services:
        requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in service.history():
            if entry["paid"]:
                requests[entry["sha256"]].append(entry)
        for entries in requests.values():
            hit = [e for e in entries if any(_in_flight(e, instant) for instant in kills)]
            in_flight += len(hit)
            extra += len(entries) - 1
            assert len(hit) >= len(entries) - 1, f"paid again without having been in flight: {entries}"
    return extra, in_flight


def _in_flight(entry: dict[str, Any], instant: float) -> bool:
    return entry["time"] <= instant <= entry["time"] + entry["seconds"] + IN_FLIGHT_SLACK_S


def test_the_same_run_started_twice_at_once_computes_and_pays_once(
    services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    runs = [DataProcess(tmp_path, services, SETTINGS) for _ in range(2)]
    results = [run.finish() for run in runs]
    assert [result["digests"] for result in results] == [undisturbed.digests] * 2
    assert paid(services) == undisturbed.paid
    for stage in ("traces", "tool_insertion", "loss_filter"):
        assert sorted(result["status"][stage] for result in results) == ["ran", "reused"]
    assert all(len(folders) == 1 for folders in visible(tmp_path).values())


def test_a_killed_ray_worker_costs_its_batch_and_nothing_else(
    services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path, prefect_api: str
) -> None:
    run = DataProcess(tmp_path, services, SETTINGS, until=UNTIL)
    assert run.wait_until(lambda: paid(services) >= 5)
    busy = [process for process in run.descendants() if "traces-batch" in _title(process)]
    assert busy, [_title(process) for process in run.descendants()]
    instant = time.time()
    busy[0].send_signal(signal.SIGSEGV)  # as dead as by SIGKILL, and it says so
    said = run.fail()
    assert "batches failed" in said and "crashed" in said and "only the missing calls" in said
    # Prefect shows it too: nothing is left behind as Running.
    query = {"flow_runs": {"id": {"any_": [_latest_flow_run(prefect_api)]}}}
    task_runs = _ask(prefect_api, "task_runs", query)
    states = Counter(run["state_type"] for run in task_runs)
    assert states["CRASHED"] == 1 and not states.keys() & {"RUNNING", "PENDING", "SCHEDULED"}
    (dead,) = (run["state"]["message"] for run in task_runs if run["state_type"] == "CRASHED")
    assert "its last lines: " in dead and "SIGSEGV" in dead
    assert "traces" not in {stage for stage, folders in visible(tmp_path).items() if folders}
    assert DataProcess(tmp_path, services, SETTINGS, until=UNTIL).finish()["digests"] == undisturbed.until(
        "tool_insertion"
    )
    extra, in_flight = _paid_again(services, [instant])
    assert paid(services) == undisturbed.paid + extra <= undisturbed.paid + in_flight


def _latest_flow_run(api: str) -> str:
    return _ask(api, "flow_runs", {"sort": "START_TIME_DESC"})[0]["id"]


def _ask(api: str, kind: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{api}/{kind}/filter", json={"limit": 200, **query}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
