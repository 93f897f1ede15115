"""Deployed runs on a real `agentflow up`: server, process worker, Ray. Failed and killed ones are repaired by
`prefect flow-run retry`, which asks exactly what is missing. Counts are the services' own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from deployed import Up, running_up, wait_for
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from up_fixtures import SOME_FAIL, asked, parameters

from agentflow.services.server import LocalService
from flows.registering import BATCH_LIMIT, DEPLOYMENTS, POOL, register
from flows.watching import ASK_S

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
SLOT_BACK_S = 120.0
SCHEDULED = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2026-01-30T23:30:00Z"}}
# Already the 31st in Berlin, where the schedule is.
READ_AND_STORED_S = 0.5
# An answer that has left the service still has to be read and stored before it is safe.


def retry(machine: Up, run_id: str) -> None:
    done = machine.prefect("flow-run", "retry", run_id)
    assert done.returncode == 0, done.stdout + done.stderr


def slowed_night(
    machine: Up, search: LocalService, search_edition: str, *, after: int = 2, delay_s: float = 2.0, slow: int = 1
) -> str:
    """Start a night whose searches after the first `after` take `delay_s` each; its id as soon as `slow` of these were
    asked: long enough for what the test does next to hit paid work in the middle. The search service counts anew.
    """
    search.reset()
    search.set_faults([{"kind": "delay", "delay_s": delay_s, "after": after}])
    run_id = machine.start_run("nightly-data", parameters(search_edition=search_edition))
    wait_for(lambda: search.stats()["requests"] >= after + slow)
    return run_id


def test_a_retried_night_asks_exactly_the_failed_searches_and_keeps_its_edition(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    teacher, search = stand_ins
    search.set_faults([SOME_FAIL])
    run_id = machine.start_run("nightly-data", parameters(regenerate="search"), state=SCHEDULED)
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "FAILED", run["state"]
    assert "tool_insertion:" in run["state"]["message"] and "only the missing calls" in run["state"]["message"]
    failing = asked(search, failed=True)
    assert failing and search.stats()["paid"] > 0
    said = machine.logs(run_id)
    estimate = next(at for at, line in enumerate(said) if line.startswith("estimate total: expected"))
    assert estimate < next(at for at, line in enumerate(said) if line.startswith("traces: ")), "before anything is paid"
    assert not any(line.startswith("estimate grpo") for line in said), "a night trains nothing"

    tables = {name: machine.table(run_id, f"tool-insertion-failed-{name}") for name in ("batches", "calls")}
    red = {one["name"] for one in machine.task_runs(run_id) if one["state_type"] == "FAILED"}
    assert red == {row["batch"] for row in tables["batches"]} and all(
        name.startswith("tool_insertion ") for name in red
    )
    assert len(tables["calls"]) == len(failing) and {row["reason"] for row in tables["calls"]} == {"server_error"}

    for service in stand_ins:
        service.reset()
    retry(machine, run_id)
    run = machine.wait_for_end(run_id, attempt=2)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert asked(search) == failing
    assert teacher.stats()["requests"] == 0
    assert run["labels"]["agentflow.night"] == "2026-01-31"


def test_a_killed_flow_is_shown_as_crashed_and_its_retry_pays_again_only_what_was_in_flight(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    _, search = stand_ins
    run_id = slowed_night(machine, search, "killed", after=3)
    process = machine.process_of(run_id)
    workers = machine.ray_workers()
    assert process is not None and workers
    killed = time.time()
    process.kill()
    # Ray ends the workers of a driver that is gone, but not in the same moment: until then they go on asking.
    _, alive = psutil.wait_procs(workers, timeout=60)
    dead = time.time()
    assert alive == [], [" ".join(worker.cmdline()) for worker in alive]
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "CRASHED", run["state"]
    before = len(search.history())
    search.clear_faults()
    retry(machine, run_id)
    run = machine.wait_for_end(run_id, attempt=2)
    assert run["state_type"] == "COMPLETED", run["state"]
    history = search.history()
    answered = [entry for entry in history if entry["paid"]]
    in_flight = {
        entry["sha256"]
        for entry in history[:before]
        if entry["time"] <= dead and entry["time"] + entry["seconds"] + READ_AND_STORED_S >= killed
    }
    again = {body for body, count in Counter(entry["sha256"] for entry in answered).items() if count > 1}
    print(f"{len(again)} of {len(in_flight)} searches in flight were paid again, of {len(answered)} answered")
    assert again <= in_flight and len(history) > before, f"killed {killed}, workers dead {dead}: {history}"
    states = Counter(task["state_type"] for task in machine.task_runs(run_id))
    assert not states.keys() & {"RUNNING", "PENDING", "SCHEDULED"}, "nothing is left behind as Running"


def test_a_server_that_is_killed_comes_back_and_no_search_is_paid_twice_and_every_slot_is_free_again(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    _, search = stand_ins
    run_id = slowed_night(machine, search, "server-killed")
    (server,) = (one for one in machine.descendants() if one.cmdline()[1:5] == ["-m", "prefect", "server", "start"])
    server.kill()
    wait_for(lambda: "the Prefect server ended; started again" in machine.said())
    wait_for(machine.answers)
    search.clear_faults()
    run = machine.wait_for_end(run_id)
    print(f"the run whose server was killed is {run['state']['name']}")
    if run["state_type"] != "COMPLETED":
        retry(machine, run_id)
        run = machine.wait_for_end(run_id, attempt=2)
    assert run["state_type"] == "COMPLETED", run["state"]
    paid = [entry["sha256"] for entry in search.history() if entry["paid"]]
    assert len(paid) == len(set(paid))
    # A lease that nobody could give back while the server was away ends after a minute.
    wait_for(lambda: machine.ask(f"v2/concurrency_limits/{BATCH_LIMIT}")["active_slots"] == 0, SLOT_BACK_S)


def test_a_server_that_does_not_answer_for_a_while_ends_no_run(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    _, search = stand_ins
    run_id = slowed_night(machine, search, "server-silent")
    process = machine.process_of(run_id)
    assert process is not None
    (server,) = (one for one in machine.descendants() if one.cmdline()[1:5] == ["-m", "prefect", "server", "start"])
    server.suspend()
    try:
        wait_for(lambda: "the Prefect server has not answered for " in machine.said(), 2 * ASK_S + 60)
        assert process.is_running() and ".prefect/server.log" in machine.said()
    finally:
        server.resume()
    search.clear_faults()
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "COMPLETED" and run["run_count"] == 1, run["state"]
    wait_for(lambda: "the Prefect server answers again, after " in machine.said(), 2 * ASK_S)


def test_a_run_outlives_its_worker(machine: Up, stand_ins: tuple[LocalService, LocalService]) -> None:
    _, search = stand_ins
    run_id = slowed_night(machine, search, "worker-killed")
    (worker,) = (one for one in machine.descendants() if one.cmdline()[1:5] == ["-m", "prefect", "worker", "start"])
    worker.kill()
    wait_for(lambda: "the worker ended; started again" in machine.said())
    search.clear_faults()
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "COMPLETED" and run["run_count"] == 1, run["state"]
    paid = [entry["sha256"] for entry in search.history() if entry["paid"]]
    assert len(paid) == len(set(paid))
    wait_for(lambda: machine.process_of(run_id) is None, 60)


def test_a_missing_secret_block_fails_the_run_with_its_name(machine: Up) -> None:
    run_id = machine.start_run("nightly-data", parameters(secrets={"TAVILY_API_KEY": "not-there"}))
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "FAILED"
    assert "Secret block 'not-there'" in run["state"]["message"] and "TAVILY_API_KEY" in run["state"]["message"]


def test_training_refuses_to_make_the_data_it_needs(machine: Up) -> None:
    run_id = machine.start_run("train", parameters(edition="never-made"))
    run = machine.wait_for_end(run_id)
    assert run["state_type"] == "FAILED" and "run nightly-data or full first" in run["state"]["message"]


def test_an_unreachable_ray_fails_the_run_with_its_address(machine: Up, tmp_path: Path) -> None:
    here = {"PREFECT_API_URL": machine.api, "RAY_ADDRESS": "127.0.0.1:9", "AGENTFLOW_ROOT": str(tmp_path)}
    code = "from flows.deployed import *; nightly_data(NightlyParameters(recipe='smoke', night='2026-01-31'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **here}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0 and "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9" in done.stderr
    (run,) = machine.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert run["state_type"] == "FAILED" and "RAY_ADDRESS=127.0.0.1:9" in run["state"]["message"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [("recipe", "unknown", "unknown"), ("regenerate", "some", "some"), ("budget", "1", "budget")],
)
def test_the_form_refuses_what_is_not_allowed(machine: Up, field: str, value: str, named: str) -> None:
    with pytest.raises(AssertionError, match=named):
        machine.start_run("nightly-data", {**parameters(), field: value})


def test_registering_again_leaves_a_schedule_on_that_somebody_switched_on(
    machine: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", machine.api)
    with temporary_settings({PREFECT_API_URL: machine.api}), get_client(sync_client=True) as client:
        other_flow = client.create_flow_from_name("nightly-data-of-others")
        theirs = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *"), slug="night", active=False)
        other = client.create_deployment(other_flow, name="nightly-data", entrypoint="theirs.night", schedules=[theirs])
        deployment = client.read_deployment_by_name("nightly-data/nightly-data")
        assert [schedule.active for schedule in deployment.schedules] == [False], "it ships paused"
        client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=True)
        register(DEPLOYMENTS, 3, tmp_path)
        again = client.read_deployment_by_name("nightly-data/nightly-data")
        assert again.id == deployment.id and [schedule.active for schedule in again.schedules] == [True]
        assert [schedule.active for schedule in client.read_deployment(other).schedules] == [False], "not ours"
        client.update_deployment_schedule(again.id, again.schedules[0].id, active=False)
        assert client.read_global_concurrency_limit_by_name(BATCH_LIMIT).limit == 3
        assert len(client.read_automations_by_name("agentflow: zombie runs")) == 1


def test_a_machine_that_knows_a_cluster_registers_its_deployment_too(
    machine: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", machine.api)
    monkeypatch.setenv("AGENTFLOW_JOBS", "http://127.0.0.1:8265")
    with temporary_settings({PREFECT_API_URL: machine.api}), get_client(sync_client=True) as client:
        assert "train-on-cluster" in register(DEPLOYMENTS, 8, tmp_path)
        deployment = client.read_deployment_by_name("train-on-cluster/train-on-cluster")
        assert deployment.work_pool_name == POOL, "the pool that the worker of `agentflow up` serves"


def test_a_second_up_says_where_the_first_one_is(machine: Up) -> None:
    second = subprocess.run(machine.command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0 and f"already up: Prefect UI: {machine.url}" in second.stdout


def test_sigterm_under_a_run_leaves_nothing_behind_and_a_retry_finishes_the_run(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    _, search = stand_ins
    run_id = slowed_night(machine, search, "stopped", delay_s=5.0, slow=2)
    code, alive = machine.stop()
    assert code == 0, machine.said()
    assert alive == [], [" ".join(process.cmdline()) for process in alive]
    paid = {entry["sha256"] for entry in search.history() if entry["paid"]}
    search.clear_faults()
    with running_up(machine.root, stand_ins) as again:
        run = again.flow_run(run_id)
        assert run["state_type"] == "CRASHED", run["state"]
        assert again.ask(f"v2/concurrency_limits/{BATCH_LIMIT}")["active_slots"] == 0
        retry(again, run_id)
        run = again.wait_for_end(run_id, attempt=2)
        assert run["state_type"] == "COMPLETED", run["state"]
    bodies = [entry["sha256"] for entry in search.history() if entry["paid"]]
    assert paid and len(bodies) - len(set(bodies)) <= 8, "at most what was in flight is paid again"


def test_it_can_be_started_again_at_once_also_after_it_was_killed(
    machine: Up, stand_ins: tuple[LocalService, LocalService]
) -> None:
    with running_up(machine.root, stand_ins) as again:
        known = again.ask("flow_runs/count", {})
        assert known > 0, "the history of the one before"
        children = again.descendants()
        again.process.kill()
    with running_up(machine.root, stand_ins) as again:
        assert again.ask("flow_runs/count", {}) == known
        # Ray's agents first tell their head of the end, for 60 s where that is dead too.
        _, alive = psutil.wait_procs(children, timeout=120)
        assert alive == [], [" ".join(process.cmdline()) for process in alive]
