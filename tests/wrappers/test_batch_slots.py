"""The limit of paid batches at once: a batch holds a slot while it works, and no slot stays taken for nobody."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from deployed import wait_for
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running

from agentflow.errors import ConfigError
from flows.local import PrefectServer
from flows.ray_jobs import job_of
from flows.recipes import load_recipe
from flows.registering import BATCH_LIMIT, limit_batches
from flows.run import RunOptions, context_of
from tasks.context import RunContext
from tasks.paid import paid_work


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


def test_slots_whose_leases_a_server_has_lost_are_given_back_where_no_run_is_at_work(
    prefect_api: str, a_night: Flow[[], None]
) -> None:
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


def test_a_job_of_a_cluster_counts_against_the_same_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTFLOW_BATCH_LIMIT", "agentflow-batches")
    recipe = load_recipe("smoke")
    assert job_of(recipe, ["agentflow", "run"]).environment["AGENTFLOW_BATCH_LIMIT"] == "agentflow-batches"
    assert context_of(recipe, RunOptions(root=tmp_path), None, None).batch_limit == "agentflow-batches"
