"""Deployments before anything runs: the file, the forms, which night it is, and what is wrong said where people act."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import prefect
import psutil
import pytest
import yaml
from deployed import wait_for
from prefect import Task, flow, task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running, Scheduled
from pydantic import ValidationError

import tasks
from agentflow.errors import ConfigError, InputError, MissingKeyError, UserError
from flows.deployed import close_ghosts, evaluate, full, nightly_data, options_here, train
from flows.doctor import prefect_api as prefect_api_finding
from flows.local import FILE_LEASES, PrefectServer, check_prefect, check_ray, prefect_server
from flows.nights import NIGHT_LABEL, night_of
from flows.parameters import NightlyParameters, RunParameters
from flows.pipeline import pipeline
from flows.plan import plan
from flows.ray_jobs import job_of, train_on_cluster
from flows.recipes import load_recipe
from flows.registering import (
    BATCH_LIMIT,
    DEPLOYMENTS,
    ZOMBIE_AFTER,
    automate,
    automations,
    check_deployments,
    limit_batches,
)
from flows.run import RunOptions, context_of
from flows.up import Worker, check_database
from tasks.context import RunContext
from tasks.keys import load_secrets
from tasks.paid import paid_work

UTC_EVENING = datetime(2026, 1, 30, 23, 30, tzinfo=UTC)


# ---------------------------------------------------------------- the file
def test_the_file_ships_four_deployments_and_the_schedule_is_paused() -> None:
    entries = {entry["name"]: entry for entry in check_deployments(DEPLOYMENTS)}
    assert set(entries) == {"nightly-data", "train", "evaluate", "full"}
    nightly = entries["nightly-data"]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    (schedule,) = nightly["schedules"]
    assert schedule["active"] is False and schedule["timezone"] and schedule["cron"]
    flows = {"nightly-data": nightly_data, "train": train, "evaluate": evaluate, "full": full}
    for name, entry in entries.items():
        assert entry["description"] and entry["tags"], name
        assert entry["entrypoint"] == f"flows.deployed.{flows[name].fn.__name__}"
        given = flows[name].validate_parameters(entry["parameters"])["run"]
        assert given.chosen().promotion.automatic is (name in ("nightly-data", "full")), "what makes data is judged"
        beats = entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert ZOMBIE_AFTER.total_seconds() >= 3 * int(beats), "no living run is taken for dead"


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"cron": "99 2 * * *", "timezone": "UTC"}, "cron '99 2 \\* \\* \\*' is no schedule"),
        ({"cron": "every night", "timezone": "UTC"}, 'as in "0 2'),
        ({"cron": "0 2 * * *", "timezone": "Europe/Atlantis"}, "timezone 'Europe/Atlantis' is unknown"),
        ({"cron": "0 2 * * *"}, "has no timezone"),
    ],
)
def test_a_wrong_schedule_is_refused_with_its_value(tmp_path: Path, schedule: dict[str, Any], said: str) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump({"deployments": [{"name": "mine", "schedules": [schedule]}]}))
    with pytest.raises(ConfigError, match=f"deployment 'mine'.*{said}"):
        check_deployments(file)


def test_a_file_that_is_missing_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        check_deployments(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold a list `deployments`"):
        check_deployments(tmp_path / "list.yaml")


def test_prefect_tries_nothing_again_by_itself_and_keeps_no_results() -> None:
    """Clients retry requests and people retry runs; what is made already is said by manifests."""
    for one in (nightly_data, train, evaluate, full, pipeline, train_on_cluster):
        assert (one.retries, one.persist_result) == (0, False), one.name
    names = [f"tasks.{path.stem}" for path in Path(tasks.__file__).parent.glob("[!_]*.py")]
    found = [one for name in names for one in vars(importlib.import_module(name)).values() if isinstance(one, Task)]
    assert len(found) >= 9
    for one in found:
        assert one.retries == 0 and one.cache_policy == NO_CACHE, one.name


# ---------------------------------------------------------------- the forms
def test_every_field_of_the_form_is_described() -> None:
    properties = NightlyParameters.model_json_schema()["properties"]
    assert all(field.get("title") and field.get("description") for field in properties.values())
    assert properties["recipe"]["enum"] and properties["regenerate"]["enum"] == ["none", "search", "teacher", "all"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"recipe": "unknown"},
        {"settings": ["no equals"]},
        {"budget_usd": -1},
        {"budget": 1},
        {"secrets": {"a key": "b"}},
    ],
)
def test_invalid_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RunParameters.model_validate(wrong)


def test_a_setting_that_does_not_fit_says_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="max_stepz.*max_steps"):
        RunParameters(recipe="smoke", settings=("sft.settings.max_stepz=1",)).chosen()


def test_regenerate_changes_the_edition_of_what_it_names_and_of_nothing_else() -> None:
    def editions(regenerate: Any) -> dict[str, Any]:
        recipe = NightlyParameters(recipe="smoke", regenerate=regenerate, edition="base").for_night("2026-01-31")
        nodes = plan(recipe)
        insertion = recipe.stage("tool_insertion")
        return {
            "traces": nodes["traces"].config.edition,
            "lookups": insertion.edition,
            "searches": insertion.search_edition or insertion.edition,
            "grpo": nodes["grpo"].config.edition,
            "evaluate": nodes["evaluate-sft"].config.edition,
        }

    night = "2026-01-31"
    searches = ("searches", "grpo", "evaluate")
    base = dict.fromkeys(("traces", "lookups", *searches), "base")
    assert editions("none") == base
    assert editions("search") == {**base, **dict.fromkeys(searches, night)}
    assert editions("teacher") == {**base, "traces": night, "lookups": night}
    assert editions("all") == dict.fromkeys(base, night)


# ---------------------------------------------------------------- which night
@task(name="a-task")
def a_task() -> None:
    """Only its runs are looked at."""


@flow(name="a-night")
def a_night() -> None:
    """Only its runs are looked at."""


def scheduled_run(*zones: str) -> Any:
    """A run of a new deployment with schedules in `zones`, scheduled for the evening of 30 January, UTC."""
    schedules = [
        DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone=zone), active=False) for zone in zones
    ]
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(a_night)
        deployment = client.create_deployment(flow_id=flow_id, name=f"in-{len(zones)}-zones", schedules=schedules)
        return client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=UTC_EVENING))


def test_the_night_is_the_scheduled_date_in_the_schedules_time_zone_and_a_retry_keeps_it(prefect_api: str) -> None:
    run = scheduled_run("Europe/Berlin")
    assert night_of(run.id) == "2026-01-31"
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).labels[NIGHT_LABEL] == "2026-01-31"
        (schedule,) = client.read_deployment(run.deployment_id).schedules
        moved = CronSchedule(cron="0 2 * * *", timezone="America/New_York")
        client.update_deployment_schedule(run.deployment_id, schedule.id, schedule=moved)
        client.set_flow_run_state(run.id, Scheduled(message="retried on another day"), force=True)
    assert night_of(run.id) == "2026-01-31"


def test_a_night_nobody_can_know_has_to_be_given(prefect_api: str) -> None:
    for zones in ((), ("Europe/Berlin", "Asia/Tokyo")):
        run = scheduled_run(*zones)
        with pytest.raises(ConfigError, match="give `night`"):
            night_of(run.id)
        assert night_of(run.id, date(2026, 2, 1)) == "2026-02-01"


# ---------------------------------------------------------------- surroundings
def test_a_missing_secret_block_is_named_and_an_existing_one_is_loaded(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "old")
    with pytest.raises(MissingKeyError, match="Secret block 'not-there' \\(for SOME_KEY\\).*create it"):
        load_secrets({"SOME_KEY": "not-there"})
    Secret(value="canary-7d1f").save("some-key", overwrite=True)
    load_secrets({"SOME_KEY": "some-key"})
    assert os.environ["SOME_KEY"] == "canary-7d1f"


def test_a_batch_limit_that_is_not_there_is_an_error_and_one_that_is_there_is_held(
    prefect_api: str, tmp_path: Path
) -> None:
    where = RunContext.model_validate(
        {
            "root": tmp_path,
            "recipe": "r",
            "access": {"ledger_url": "sqlite://", "run_id": "1"},
            "batch_limit": "none",
        }
    )
    with pytest.raises(ConfigError, match="limit 'none'"), paid_work(where):
        raise AssertionError("work without a limit")
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("there", 1)
        with paid_work(where.model_copy(update={"batch_limit": "there"})):
            assert client.read_global_concurrency_limit_by_name("there").active_slots == 1
        assert client.read_global_concurrency_limit_by_name("there").active_slots == 0


def test_slots_whose_leases_a_server_has_lost_are_given_back_where_no_run_is_at_work(prefect_api: str) -> None:
    def taken() -> int:
        return client.read_global_concurrency_limit_by_name(BATCH_LIMIT).active_slots

    def lose(slots: int) -> None:
        body = {"names": [BATCH_LIMIT], "slots": slots, "mode": "concurrency"}  # a slot without a lease
        httpx.post(f"{prefect_api}/v2/concurrency_limits/increment", json=body, timeout=30).raise_for_status()

    with get_client(sync_client=True) as client:
        limit_batches(client, 2, alone=True)
        old = client.increment_concurrency_slots_with_lease([BATCH_LIMIT], 1, "concurrency", 60.0).json()["lease_id"]
        lose(1)
        run = client.create_flow_run(a_night, tags=["agentflow"], state=Running())
        limit_batches(client, 3)
        assert taken() == 2, "a run is at work, and may hold them"
        limit_batches(client, 3, alone=True)
        assert taken() == 0
        lose(1)
        client.release_concurrency_slots_with_lease(old)
        assert taken() == 1, "what ended late gave back no slot of another"
        client.set_flow_run_state(run.id, Crashed(), force=True)
        limit_batches(client, 4)
        assert taken() == 0 and client.read_global_concurrency_limit_by_name(BATCH_LIMIT).limit == 4


def test_a_lease_outlives_the_server_that_gave_it(tmp_path: Path) -> None:
    server = PrefectServer(tmp_path, None, None)
    server.start()
    try:
        server.wait_until_up()
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}), get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name("kept", 1)
            lease = client.increment_concurrency_slots_with_lease(["kept"], 1, "concurrency", 60.0).json()["lease_id"]
            (process,) = (one for one in psutil.Process().children() if server.url[-5:] in " ".join(one.cmdline()))
            os.killpg(process.pid, signal.SIGKILL)
            wait_for(server.ended)
            server.start()
            server.wait_until_up()
            client.renew_concurrency_lease(lease, 60.0)
            assert client.read_global_concurrency_limit_by_name("kept").active_slots == 1
            client.release_concurrency_slots_with_lease(lease)
            assert client.read_global_concurrency_limit_by_name("kept").active_slots == 0
    finally:
        server.stop()


def test_an_unreachable_prefect_or_ray_is_said_with_its_address() -> None:
    with pytest.raises(UserError, match="PREFECT_API_URL=http://127.0.0.1:9/api"):
        check_prefect("http://127.0.0.1:9/api")
    with pytest.raises(UserError, match="RAY_ADDRESS=127.0.0.1:9 .*start it"):
        check_ray("127.0.0.1:9")


@contextmanager
def answering(status: int, body: str | dict[str, str]) -> Iterator[str]:
    """Address of an API that says the same to every request, or what stands beside the end of its path."""

    class Same(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            said = body if isinstance(body, str) else body[self.path.removeprefix("/api")]
            self.wfile.write(said.encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Same)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "given", [{"port": 4300}, {"database_url": "postgresql+asyncpg://me:canary-7d1f@host/prefect"}]
)
def test_a_port_or_database_for_a_server_that_others_run_is_refused(
    prefect_api: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    arguments = {"port": None, **given}
    with (
        pytest.raises(UserError, match=f"PREFECT_API_URL={prefect_api} names one that runs") as caught,
        prefect_server(tmp_path, **arguments),
    ):
        raise AssertionError("ignored")
    assert "canary" not in str(caught.value)
    with prefect_server(tmp_path, None, usual_port=4300) as ui:
        assert f"{ui}/api" == prefect_api


OURS = tuple(map(int, prefect.__version__.split(".")[:2]))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, '"2.20.1"', "is version 2.20.1, this machine has 3.*bring both to one version"),
        (200, f'"{OURS[0]}.{OURS[1] - 1}.9"', "not of an older minor one"),
        (200, f'"{OURS[0] + 1}.0.0"', f"is version {OURS[0] + 1}.0.0, this machine has {OURS[0]}"),
        (200, "<html>a proxy</html>", "is no Prefect server; correct the address"),
        (404, "", "is no Prefect server.*404"),
        (401, '{"exception_message": "Unauthorized"}', "does not let us in .401.; set PREFECT_API_AUTH_STRING"),
    ],
)
def test_a_server_this_prefect_cannot_work_with_is_said(status: int, body: str, said: str) -> None:
    with answering(status, body) as url, pytest.raises(UserError, match=f"{url}.*{said}"):
        check_prefect(url)


def test_a_newer_server_of_the_same_major_version_is_worked_with_and_doctor_says_so() -> None:
    newer = f"{OURS[0]}.{OURS[1] + 1}.0"
    with answering(200, f'"{newer}"') as url, temporary_settings({PREFECT_API_URL: url}):
        assert check_prefect(url) == newer
        found = prefect_api_finding()
        assert found.verdict == "note" and newer in found.found and "bring both" in found.mend


@pytest.mark.parametrize(("kept", "verdict"), [("memory", "note"), ("filesystem", "ok")])
def test_doctor_says_that_a_server_forgets_leases(kept: str, verdict: str) -> None:
    storage = f"prefect.server.concurrency.lease_storage.{kept}"
    settings = json.dumps({"server": {"concurrency": {"lease_storage": storage}}})
    answers = {"/admin/version": f'"{prefect.__version__}"', "/admin/settings": settings}
    with answering(200, answers) as url, temporary_settings({PREFECT_API_URL: url}):
        found = prefect_api_finding()
    assert found.verdict == verdict and ("LEASE_STORAGE=" in found.mend) is (verdict == "note")


def test_doctor_reads_what_a_real_server_says_of_its_leases(prefect_api: str) -> None:
    found = prefect_api_finding()
    assert found.verdict == "ok", found
    said = httpx.get(f"{prefect_api}/admin/settings", timeout=30).json()["server"]["concurrency"]["lease_storage"]
    assert said == FILE_LEASES


def test_a_password_in_the_address_of_a_server_is_not_shown() -> None:
    with pytest.raises(UserError, match="PREFECT_API_URL=http://127.0.0.1:9/api") as caught:
        check_prefect("http://me:canary-7d1f@127.0.0.1:9/api")
    assert "canary" not in str(caught.value)


def test_pages_of_other_sites_get_no_answer_from_our_server(prefect_api: str) -> None:
    own = prefect_api.removesuffix("/api")
    for origin, allowed in ((own, True), ("http://elsewhere.example", False)):
        answer = httpx.get(f"{prefect_api}/health", headers={"Origin": origin}, timeout=30)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


def test_a_database_no_server_can_use_or_reach_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigError, match="postgresql\\+asyncpg://") as caught:
        check_database("postgresql://user:canary-7d1f@host/prefect")
    assert "canary" not in str(caught.value)
    with pytest.raises(UserError, match="no PostgreSQL answers at 127.0.0.1:9 ") as unreachable:
        check_database("postgresql+asyncpg://user:canary-7d1f@127.0.0.1:9/prefect")
    assert "canary" not in str(unreachable.value)
    check_database(None)
    with socket.create_server(("127.0.0.1", 0)) as anything:
        check_database(f"postgresql+asyncpg://user:secret@127.0.0.1:{anything.getsockname()[1]}/prefect")


def test_a_second_worker_of_one_name_is_refused(prefect_api: str, tmp_path: Path) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="taken", type="process"), overwrite=True)
    Worker("taken", 1, tmp_path / "log")
    beat = {"name": f"agentflow-{socket.gethostname()}"}
    httpx.post(f"{prefect_api}/work_pools/taken/workers/heartbeat", json=beat, timeout=30).raise_for_status()
    with pytest.raises(UserError, match="is online in work pool 'taken' already"):
        Worker("taken", 1, tmp_path / "log")


def test_a_worker_that_was_stopped_can_be_started_again_at_once(prefect_api: str, tmp_path: Path) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="again", type="process"), overwrite=True)
        worker = Worker("again", 1, tmp_path / "log")
        worker.start()
        wait_for(lambda: bool(client.read_workers_for_work_pool("again")))
        worker.stop()
        assert client.read_workers_for_work_pool("again") == []
    Worker("again", 1, tmp_path / "log")


@pytest.mark.parametrize(
    ("name", "value"),
    [("AGENTFLOW_CPUS", "many"), ("AGENTFLOW_METRICS_PORT", "prometheus"), ("AGENTFLOW_METRICS_PORT", "70000")],
)
def test_a_worker_with_a_wrong_number_in_its_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}='{value}'"):
        options_here(RunParameters())


def test_a_job_of_a_cluster_counts_against_the_same_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTFLOW_BATCH_LIMIT", "agentflow-batches")
    recipe = load_recipe("smoke")
    assert job_of(recipe, ["agentflow", "run"]).environment["AGENTFLOW_BATCH_LIMIT"] == "agentflow-batches"
    assert context_of(recipe, RunOptions(root=tmp_path), None, None).batch_limit == "agentflow-batches"


def test_a_worker_that_knows_no_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTFLOW_JOBS", raising=False)
    with pytest.raises(ConfigError, match="AGENTFLOW_JOBS is not set for this worker: .*http://HEAD:8265"):
        train_on_cluster.fn(RunParameters(recipe="smoke"))


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"cron": "99 2 * * *", "timezone": "UTC"}, "cron '99 2 * * *' is no schedule"),
        ({"cron": "0 2 * * *", "timezone": "Europe/Atlantis"}, "timezone 'Europe/Atlantis' is unknown"),
    ],
)
def test_up_refuses_a_wrong_schedule_before_it_starts_anything(
    tmp_path: Path, schedule: dict[str, str], said: str
) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump({"deployments": [{"name": "mine", "schedules": [schedule]}]}))
    root = tmp_path / "root"
    command = [sys.executable, "-m", "flows.cli", "up", f"--root={root}", f"--deployments={file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"error: deployment 'mine': {said}" in done.stderr, done.stderr
    assert not (root / ".prefect").exists()


def test_auto_without_a_cluster_on_this_machine_is_said(tmp_path: Path) -> None:
    """In a process namespace of its own: Ray looks for clusters among all processes."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine allows no process namespaces")
    code = "from flows.local import ray_cluster\nwith ray_cluster(1, 'auto'): pass"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*alone, sys.executable, "-c", code],
        env={**environment, "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "UserError: no Ray runs on this machine (address auto)" in last, done.stderr[-2000:]


def test_the_automations_are_there_once_and_one_that_was_switched_off_stays_off(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        automate(client)
        (late,) = client.read_automations_by_name("agentflow: a night is late")
        client.pause_automation(late.id)
        automate(client)
        for automation in automations(None):
            (made,) = client.read_automations_by_name(automation.name)
            assert made.trigger == automation.trigger and made.enabled == (made.id != late.id)
        client.resume_automation(late.id)


def test_every_task_that_a_killed_run_left_behind_is_closed(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(a_night, state=Running())
        for i in range(205):  # more than the server tells at once
            client.create_task_run(a_task, run.id, dynamic_key=str(i), state=Running())
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
        assert len(client.read_task_runs(flow_run_filter=mine, task_run_filter=running)) == 200
        close_ghosts(str(run.id))
        assert client.read_task_runs(flow_run_filter=mine, task_run_filter=running) == []
