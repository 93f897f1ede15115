"""Prefect's workers: one of a name at a time, and what one needs around it, keys, numbers and a cluster, is said."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest
from deployed import wait_for
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from agentflow.errors import ConfigError, MissingKeyError, UserError
from flows.deployed import options_here
from flows.parameters import RunParameters
from flows.ray_jobs import train_on_cluster
from flows.up import Worker
from tasks.keys import load_secrets


def test_a_missing_secret_block_is_named_and_an_existing_one_is_loaded(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "old")
    with pytest.raises(MissingKeyError, match="Secret block 'not-there' \\(for SOME_KEY\\).*create it"):
        load_secrets({"SOME_KEY": "not-there"})
    Secret(value="canary-7d1f").save("some-key", overwrite=True)
    load_secrets({"SOME_KEY": "some-key"})
    assert os.environ["SOME_KEY"] == "canary-7d1f"


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


def test_a_worker_that_knows_no_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTFLOW_JOBS", raising=False)
    with pytest.raises(ConfigError, match="AGENTFLOW_JOBS is not set for this worker: .*http://HEAD:8265"):
        train_on_cluster.fn(RunParameters(recipe="smoke"))
