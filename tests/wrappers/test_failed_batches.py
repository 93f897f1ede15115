"""A paid stage some of whose calls fail: every batch is waited for, the good ones are kept, the stage ends incomplete,
and running again asks exactly what is missing. Counts are the service's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data_flow
import httpx
import pytest

from agentflow.artifacts.store import Store
from agentflow.errors import BudgetExceeded, MissingKeyError, StageIncomplete
from agentflow.records import Outcomes, Reject
from agentflow.schemas import TOOL_TRACES
from agentflow.services.server import LocalService
from flows.plan import plan
from flows.recipes import Recipe, load_recipe
from tasks.batches import batch_key

SETTINGS = [
    "questions.source.arithmetic_train=2",
    "questions.source.two_hop_train=4",
    "teacher.local.wrong_rate=0",
    "tool_insertion.batch_size=1",
    "search.max_attempts=1",
    "search.usd_per_credit=0.008",
    "search.local.latency_ms=150",  # slower than the failure: a call beside it is still under way when it fails
]


@dataclass
class Undisturbed:
    """What a run without faults makes and pays."""

    digest: str | None
    queries: list[str]
    # Of one trace with two searches.
    paid: int


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("smoke", SETTINGS)


@pytest.fixture(scope="module")
def services(ray_up: None, recipe: Recipe) -> Iterator[tuple[LocalService, LocalService]]:
    teacher, search = data_flow.services(recipe)
    with teacher, search:
        yield teacher, search


@pytest.fixture(autouse=True)
def no_faults(services: tuple[LocalService, LocalService]) -> None:
    for service in services:
        service.reset()


def insert(recipe: Recipe, root: Path, services: tuple[LocalService, LocalService], **more: Any) -> Any:
    urls = (service.base_url for service in services)
    return data_flow.run_data(recipe, root, *urls, until="tool_insertion", **more)["tool_insertion"]


@pytest.fixture(scope="module")
def undisturbed(
    recipe: Recipe, services: tuple[LocalService, LocalService], tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    for service in services:  # whatever test came before
        service.reset()
    made = insert(recipe, tmp_path_factory.mktemp("undisturbed"), services)
    calls = [[s for s in row["segments"] if s["tool"] == "Search"] for row in made.artifact.rows()]
    searches = [json.loads(call["arguments"])["query"] for call in next(found for found in calls if len(found) == 2)]
    return Undisturbed(made.artifact.manifest.digest, searches, services[1].stats()["paid"])


def broken(query: str) -> list[dict[str, Any]]:
    return [{"kind": "status", "status": 500, "contains": query}]


def visible(root: Path, stage: str) -> list[str]:
    """Names in a stage's folder that a reader sees."""
    folder = root / "artifacts" / stage
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def artifacts_of(api: str, key: str) -> list[dict[str, Any]]:
    answer = httpx.post(
        f"{api}/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}, timeout=30
    )
    answer.raise_for_status()
    return answer.json()


def test_one_failing_search_fails_its_batch_alone_and_the_next_run_asks_only_what_is_missing(
    recipe: Recipe,
    services: tuple[LocalService, LocalService],
    undisturbed: Undisturbed,
    tmp_path: Path,
    prefect_api: str,
) -> None:
    teacher, search = services
    search.set_faults(broken(undisturbed.queries[0]))
    with pytest.raises(StageIncomplete, match=r"tool_insertion: 1 of 6 batches failed \(1 server_error") as caught:
        insert(recipe, tmp_path, services)
    assert caught.value.failed == {"server_error": 1}
    assert "500" in str(caught.value) and "only the missing calls" in str(caught.value)

    # The others are kept, and nobody sees half a stage.
    identity = plan(recipe)["tool_insertion"].identity
    store = Store.open(tmp_path / "artifacts")
    assert visible(tmp_path, "tool_insertion") == []
    batches = tmp_path / "artifacts" / "tool_insertion" / ".batches" / identity.fingerprint
    assert store.find(identity.stage, identity.fingerprint) is None
    assert len({path.name.split(".")[0] for path in batches.rglob("*") if path.suffix == ".json"}) == 5

    # People see it in Prefect: the run is Failed, and a table says which batch, why and what to do.
    runs = httpx.post(f"{prefect_api}/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}, timeout=30)
    assert [(run["state_type"], "StageIncomplete" in run["state"]["message"]) for run in runs.json()] == [
        ("FAILED", True)
    ]
    (table, *_) = artifacts_of(prefect_api, "tool-insertion-failed-batches")
    (cells,) = json.loads(table["data"])
    assert table["flow_run_id"] == runs.json()[0]["id"]
    assert cells["batch"].startswith("tool_insertion ") and cells["batch"].endswith("/6")
    assert (cells["reason"], cells["rows"]) == ("server_error", 1) and cells["suggested action"]

    (calls, *_) = artifacts_of(prefect_api, "tool-insertion-failed-calls")
    (call,) = json.loads(calls["data"])
    assert call["batch"] == cells["batch"] and call["reason"] == "server_error"
    assert undisturbed.queries[0] in call["call"] and "500" in call["call"]

    # Everything paid is kept: the next run asks the failed search, and nothing else.
    for service in services:
        service.reset()
    made = insert(recipe, tmp_path, services)
    assert [entry["subject"] for entry in search.history()] == [undisturbed.queries[0]]
    assert teacher.stats()["requests"] == 0
    assert made.artifact.manifest.digest == undisturbed.digest
    assert not batches.exists(), "batches of a complete stage are merged and removed"


def test_an_artifact_that_a_second_run_finished_cost_what_both_paid(
    recipe: Recipe, services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    services[1].set_faults(broken(undisturbed.queries[0]))
    with pytest.raises(StageIncomplete):
        insert(recipe, tmp_path, services)
    services[1].clear_faults()
    cost = insert(recipe, tmp_path, services).artifact.manifest.cost
    assert services[1].stats()["paid"] == undisturbed.paid > 1
    assert (cost["search"]["paid"], cost["search"]["failed"], cost["runs"]) == (undisturbed.paid, 1, 2)
    assert cost["usd"] == pytest.approx(undisturbed.paid * recipe.search.usd_per_credit)


def test_failures_within_the_failure_budget_are_counted_and_the_stage_completes(
    services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    allowed = load_recipe("smoke", [*SETTINGS, "tool_insertion.failure_budget=1"])
    services[1].set_faults(broken(undisturbed.queries[0]))
    manifest = insert(allowed, tmp_path, services).artifact.manifest
    assert manifest.counts is not None and manifest.counts.failed == {"server_error": 1}
    assert (manifest.keys_in, manifest.counts.out, manifest.rows) == (6, 5, 5)


def test_failures_that_come_while_others_are_accepted_count_against_the_failure_budget_too(
    recipe: Recipe, services: tuple[LocalService, LocalService], tmp_path: Path
) -> None:
    rows = insert(recipe, tmp_path / "whole", services).artifact.rows()
    asked = {row["id"]: [json.loads(s["arguments"])["query"] for s in row["segments"] if s["tool"] == "Search"]
             for row in rows}  # fmt: skip
    everywhere = [query for queries in asked.values() for query in queries]
    first, second = (
        next(query for query in queries if sum(query in other for other in everywhere) == 1)
        for queries in list(filter(None, asked.values()))[:2]
    )
    # Every search is too old at once, so that the second pass asks all of them again.
    settings = [*SETTINGS, "tool_insertion.failure_budget=1", "tool_insertion.batch_size=6", "search.ttl_days=1e-9"]
    services[1].set_faults([*broken(first), {**broken(second)[0], "after": 1}])
    with pytest.raises(StageIncomplete, match=r"1 of 1 batches failed \(2 server_error") as caught:
        insert(load_recipe("smoke", settings), tmp_path / "run", services)
    assert caught.value.failed == {"server_error": 2}
    assert visible(tmp_path / "run", "tool_insertion") == []
    services[1].reset()
    counts = insert(load_recipe("smoke", settings), tmp_path / "run", services).artifact.manifest.counts
    assert (counts.out, counts.failed) == (6, {})


@pytest.mark.parametrize("failure_budget", [0, 1])
def test_a_cut_answer_is_asked_for_once_by_the_run_that_accepts_failures_and_by_every_retry(
    services: tuple[LocalService, LocalService], tmp_path: Path, failure_budget: int
) -> None:
    recipe = load_recipe("smoke", [*SETTINGS, f"traces.failure_budget={failure_budget}", "teacher.max_attempts=1"])
    made = data_flow.run_data(recipe, tmp_path / "whole", *(service.base_url for service in services), until="traces")
    cut, failing = (row["question"] for row in made["traces"].artifact.rows()[:2])
    choice = {"index": 0, "message": {"role": "assistant", "content": "3+4 = "}, "finish_reason": "length"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
    rules = [{"kind": "status", "status": 200, "body": body, "contains": cut}]
    services[0].reset()
    services[0].set_faults([*rules, *broken(failing)])

    def traced() -> Any:
        urls = (service.base_url for service in services)
        return data_flow.run_data(recipe, tmp_path / "run", *urls, until="traces")["traces"].artifact.manifest.counts

    if failure_budget:
        counts = traced()
        assert counts.failed == {"server_error": 1}
    else:
        with pytest.raises(StageIncomplete, match="1 server_error"):
            traced()
        services[0].set_faults(rules)
        counts = traced()
        assert counts.failed == {}
    assert counts.quarantined == {"cut": 1}
    assert services[0].stats()["by_fault"]["status"] - services[0].stats()["by_status"].get("500", 0) == 1


def test_failures_that_a_killed_run_had_accepted_count_against_the_failure_budget(
    recipe: Recipe, services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rows = insert(recipe, tmp_path / "whole", services).artifact.rows()
    other = next(row for row in rows if undisturbed.queries[0] not in str(row["segments"]))
    allowed = load_recipe("smoke", [*SETTINGS, "tool_insertion.failure_budget=1"])
    fingerprint = plan(allowed)["tool_insertion"].identity.fingerprint
    accepted = Outcomes([], [Reject(other["id"], "failed", "timeout", "late", {"id": other["id"]})], 1, 0)
    store = Store.open(tmp_path / "killed" / "artifacts")
    store.commit_batch("tool_insertion", fingerprint, batch_key([other]), accepted, TOOL_TRACES, allow_failed=True)
    services[1].set_faults(broken(undisturbed.queries[0]))
    with pytest.raises(StageIncomplete, match="1 of 6 batches failed"):
        insert(allowed, tmp_path / "killed", services)
    services[1].reset()
    counts = insert(allowed, tmp_path / "killed", services).artifact.manifest.counts
    assert (counts.out, counts.failed) == (5, {"timeout": 1})


def test_a_budget_stops_the_run_before_it_is_overspent_and_a_larger_one_resumes(
    recipe: Recipe, services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    credit = recipe.search.usd_per_credit
    with pytest.raises(BudgetExceeded, match="budget"):
        insert(recipe, tmp_path, services, budget_usd=3 * credit)
    assert services[1].stats()["paid"] == 3
    made = insert(recipe, tmp_path, services, budget_usd=100 * credit)
    assert services[1].stats()["paid"] == undisturbed.paid
    assert made.artifact.manifest.digest == undisturbed.digest


def test_a_wrong_key_stops_at_once_and_its_message_says_so(tmp_path: Path, ray_up: None) -> None:
    with LocalService("teacher", api_key="right") as teacher:
        settings = [f"teacher.base_url={teacher.base_url}", "teacher.api_key_env=", "traces.batch_size=24"]
        with pytest.raises(StageIncomplete, match="auth") as caught:
            data_flow.run_data(load_recipe("smoke", settings), tmp_path, None, None, until="traces")
        assert "401" in str(caught.value)
        # One answer is enough to know: what was not under way by then is never sent.
        assert teacher.stats()["requests"] <= 16 < 24
    assert visible(tmp_path, "traces") == []


def test_what_ends_whole_batches_is_not_within_a_failure_budget_of_rows(tmp_path: Path, ray_up: None) -> None:
    with LocalService("teacher", api_key="right") as teacher:
        settings = [f"teacher.base_url={teacher.base_url}", "teacher.api_key_env=", "traces.failure_budget=1000"]
        with pytest.raises(StageIncomplete, match="auth"):
            data_flow.run_data(load_recipe("smoke", settings), tmp_path, None, None, until="traces")
        assert teacher.stats()["paid"] == 0
    assert visible(tmp_path, "traces") == []


def test_a_missing_key_is_an_error_of_the_user_that_names_the_variable(
    tmp_path: Path, ray_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    recipe = load_recipe("smoke", ["teacher.base_url=https://api.openai.com/v1"])
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        data_flow.run_data(recipe, tmp_path, None, None, until="traces")
    assert visible(tmp_path, "traces") == []
