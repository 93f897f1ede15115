"""Deployments before anything runs: the file with its schedules, the automations, and the forms that people fill in."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from pydantic import ValidationError

import tasks
from agentflow.errors import ConfigError, InputError
from flows.deployed import evaluate, full, nightly_data, train
from flows.parameters import NightlyParameters, RunParameters
from flows.pipeline import pipeline
from flows.plan import plan
from flows.ray_jobs import train_on_cluster
from flows.registering import DEPLOYMENTS, ZOMBIE_AFTER, automate, automations, check_deployments


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
