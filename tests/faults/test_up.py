"""`agentflow up` as it is used for real: PostgreSQL, a server behind a password, services that ask for keys.

Every password and key is a marked one, and the last test looks for it in every byte that was written. The tests share
one `agentflow up` and build on each other.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from deployed import Up, running_up, wait_for
from postgresql import postgresql
from up_fixtures import DEPLOYED

from agentflow.services.server import LocalService

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
CANARY = "canary-4b9d2e71"


@dataclass
class Place:
    """What the tests look at and change."""

    up: Up
    teacher: LocalService
    search: LocalService
    folders: list[Path]
    # Wherever anything may be written: root, PostgreSQL's files, Ray's and Prefect's.

    def parameters(self, **more: Any) -> dict[str, Any]:
        """The form of a deployment: services that want a key, the search's in a Secret block."""
        settings = [
            *(setting for setting in DEPLOYED if ".local." not in setting),
            f"teacher.base_url={self.teacher.base_url}",
            "teacher.api_key_env=OPENAI_API_KEY",
            f"search.base_url={self.search.base_url}",
            "search.api_key_env=TAVILY_API_KEY",
        ]
        return {"recipe": "smoke", "settings": settings, "secrets": {"TAVILY_API_KEY": "tavily"}, **more}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], list[Path]]]:
    """What `agentflow up` is given, and the folders in which its surroundings write."""
    home = tmp_path_factory.mktemp("home")
    ray = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: Ray puts sockets into it
    with postgresql("prefect", "ledger") as server:
        address = server.address
        given = {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://agentflow:{CANARY}-db@{address}/prefect",
            "AGENTFLOW_LEDGER": f"postgresql://agentflow:{CANARY}-ledger@{address}/ledger",
            "PREFECT_SERVER_API_AUTH_STRING": f"me:{CANARY}-auth",
            "PREFECT_API_AUTH_STRING": f"me:{CANARY}-auth",
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "OPENAI_API_KEY": f"{CANARY}-teacher",
            "PREFECT_HOME": str(home),
            "RAY_TMPDIR": str(ray),
        }
        yield given, [server.folder, home, ray]
    shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture(scope="module")
def place(environment: tuple[dict[str, str], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    given, folders = environment
    root = tmp_path_factory.mktemp("guarded")
    with (
        LocalService("teacher", api_key=f"{CANARY}-teacher", wrong_rate=0) as teacher,
        LocalService("search", api_key=f"{CANARY}-search") as search,
        running_up(root, None, environment=given) as up,
    ):
        done = up.run("flows.cli", "doctor", "smoke", "--root", str(root))
        assert "ok      Prefect: " in done.stdout, done.stdout + done.stderr
        make_secret(up, "tavily", f"{CANARY}-search")
        yield Place(up, teacher, search, [root, *folders])


def alive(process: psutil.Process) -> bool:
    """Whether it is still at work."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def content(path: Path) -> bytes:
    """What stands in a file; nothing in one that PostgreSQL has removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def make_secret(up: Up, name: str, value: str) -> None:
    """A Secret block, as a person makes it under Blocks in the UI."""
    kind = up.ask("block_types/slug/secret")
    (schema, *_) = up.ask("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})
    block = {"name": name, "data": {"value": value}, "block_schema_id": schema["id"], "block_type_id": kind["id"]}
    up.ask("block_documents/", block)


def test_a_server_behind_a_password_is_named_to_who_has_none(place: Place) -> None:
    for command in (["up"], ["doctor", "smoke"]):
        root = str(place.up.root.with_name("stranger"))
        done = place.up.run("flows.cli", *command, "--root", root, PREFECT_API_AUTH_STRING="")
        assert done.returncode != 0
        assert "does not let us in (401); set PREFECT_API_AUTH_STRING" in done.stdout + done.stderr


def test_nights_run_one_at_a_time_and_say_what_they_did(place: Place) -> None:
    dates = ("2026-01-01", "2026-01-02")
    forms = [place.parameters(regenerate="search", night=night) for night in dates]
    nights = [place.up.start_run("nightly-data", form) for form in forms]
    waited: set[str] = set()

    def both_ended() -> bool:
        states = [place.up.flow_run(run_id)["state"] for run_id in nights]
        waited.update(state["name"] for state in states)
        assert [state["type"] for state in states].count("RUNNING") < 2
        return all(state["type"] in ("COMPLETED", "FAILED", "CRASHED") for state in states)

    wait_for(both_ended)
    assert "AwaitingConcurrencySlot" in waited
    for run_id, night in zip(nights, dates, strict=True):
        run = place.up.flow_run(run_id)
        assert run["state_type"] == "COMPLETED", run["state"]
        said = place.up.logs(run_id)
        assert f"night {night}, regenerate: search" in said
        assert any(re.match(r"tool_insertion: ran tool_insertion/\w+, \d+ rows in", line) for line in said), said
    assert set(place.teacher.stats()["by_status"]) == set(place.search.stats()["by_status"]) == {"200"}


def test_a_cancelled_night_stops_at_once_and_what_it_paid_is_kept(place: Place) -> None:
    place.teacher.reset()
    place.teacher.set_faults([{"kind": "delay", "delay_s": 5.0, "after": 2}])
    run_id = place.up.start_run("nightly-data", place.parameters(edition="cancelled"))
    wait_for(lambda: place.teacher.stats()["requests"] > 2)
    process = place.up.process_of(run_id)
    assert process is not None
    children = process.children(recursive=True)
    place.up.ask(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    run = place.up.wait_for_end(run_id)
    assert run["state_type"] == "CANCELLED", run["state"]
    wait_for(lambda: not any(alive(one) for one in (process, *children)), 60)
    assert '"failed"' in (place.up.root / "smoke" / "report.json").read_text()

    paid = place.teacher.stats()["paid"]
    place.teacher.clear_faults()
    run_id = place.up.start_run("nightly-data", place.parameters(edition="cancelled"))
    assert place.up.wait_for_end(run_id)["state_type"] == "COMPLETED"
    asked = [entry["sha256"] for entry in place.teacher.history() if entry["paid"]]
    assert paid > 0 and len(asked) - len(set(asked)) <= 8, "at most what was in flight is paid again"


@pytest.mark.parametrize("deployment", ["full", "train", "evaluate"])
def test_every_deployment_ends_completed(place: Place, deployment: str) -> None:
    run_id = place.up.start_run(deployment, place.parameters(edition="cancelled"))
    run = place.up.wait_for_end(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]


def test_the_history_outlives_a_restart_and_no_byte_of_a_key_or_password_was_written(
    place: Place, environment: tuple[dict[str, str], list[Path]]
) -> None:
    before = place.up.ask("flow_runs/count", {})
    code, alive = place.up.stop()
    assert (code, alive) == (0, []), place.up.said()
    with running_up(place.up.root, None, environment=environment[0]) as again:
        assert again.ask("flow_runs/count", {}) == before
        settings = [*place.parameters()["settings"], "edition=cancelled"]
        command = ["run", "smoke", f"--root={place.up.root}", *(f"--set={text}" for text in settings)]
        done = again.run("flows.cli", *command, TAVILY_API_KEY=f"{CANARY}-search")
        assert done.returncode == 0, done.stdout + done.stderr
        assert again.ask("flow_runs/count", {}) == before + 1
        time.sleep(2)  # PostgreSQL and the logs have written what they have
    assert not list(place.up.root.rglob("prefect.db"))
    found = (path for folder in place.folders for path in folder.rglob("*"))
    written = [path for path in found if path.is_file() and not path.is_symlink()]
    names = {path.name for path in written}
    assert {"server.log", "worker.log", "manifest.json", "report.html"} <= names
    assert any(path.is_relative_to(Path(environment[0]["RAY_TMPDIR"])) for path in written)
    hits = [str(path) for path in written if CANARY.encode() in content(path)]
    assert hits == []
    assert CANARY not in place.up.said() + done.stdout + done.stderr
