"""What survives kill -9, races and a full disk. `crash_driver.py` does it once; the tests read its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = [sys.executable, str(HERE / "crash_driver.py"), str(tmp_path_factory.mktemp("crash"))]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_after_kill_9_at_any_operation_ends_with_the_same_digest(report: dict[str, Any]) -> None:
    assert len(report["crash"]) > 50, "too few operations were seen for the killer to mean anything"
    ends = {(kill["digest"], kill["rejects"]) for kill in report["crash"]}
    assert ends == {(report["undisturbed"]["digest"], report["undisturbed"]["rejects"])}


def test_after_kill_9_a_reader_sees_the_whole_artifact_or_none(report: dict[str, Any]) -> None:
    seen = {kill["seen"] for kill in report["crash"]}
    assert seen == {None, report["undisturbed"]["digest"]}


def test_a_batch_that_was_committed_before_the_kill_is_not_computed_again(report: dict[str, Any]) -> None:
    for kill in report["crash"]:
        missing = [] if kill["seen"] else [key for key in ("b0", "b1") if key not in kill["kept"]]
        assert kill["computed"] == missing
    assert {tuple(kill["kept"]) for kill in report["crash"]} == {(), ("b0",), ("b0", "b1")}


def test_the_next_commit_sweeps_what_a_killed_attempt_left(report: dict[str, Any]) -> None:
    assert [kill["nth"] for kill in report["crash"] if kill["left"] and not kill["seen"]] == []


def test_four_commits_at_once_give_one_artifact_that_all_of_them_return(report: dict[str, Any]) -> None:
    assert len({(winner["digest"], winner["created_at"]) for winner in report["race"]}) == 1
    assert len(report["race_left"]) == 1
    assert report["race_attempts"] == 0


def test_the_same_stage_started_four_times_computes_once(report: dict[str, Any]) -> None:
    assert sorted(run["computed"] for run in report["locked"]) == [[], [], [], ["b0", "b1"]]
    assert {run["digest"] for run in report["locked"]} == {report["undisturbed"]["digest"]}


def test_a_full_disk_is_an_error_with_its_cause_and_leaves_the_old_artifact_intact(report: dict[str, Any]) -> None:
    full = report["full"]
    assert len(full["errors"]) == 12
    assert all("File too large" in error and "free space" in error for error in full["errors"])
    assert full["visible"] == [full["old"]]
    assert full["left"] == []
    assert full["rows"] == 6
