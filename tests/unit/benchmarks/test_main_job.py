"""The rows of the main job's benchmark: built from a small hand-made report, with the targets of the project."""

import copy
import json
import sys

import pytest
from report_rows import evaluation_row

from agentflow.report.evaluation import breakdown, summarise_evaluation
from benchmarks import main_job
from benchmarks.main_job import Measured, Ran
from flows.recipes import load_recipe

SHAPE = {
    ("test", "arithmetic"): 20,
    ("test", "two_hop"): 10,
    ("test_unseen", "arithmetic"): 5,
    ("test_unseen", "two_hop"): 5,
}
# Questions of each kind.
BASE = {("test", "arithmetic"): 4, ("test_unseen", "arithmetic"): 1}
TUNED = {**SHAPE, ("test", "arithmetic"): 16, ("test_unseen", "arithmetic"): 2, ("test_unseen", "two_hop"): 1}
# How many are right; none where nothing stands.


def answers(model, style, right):
    return [
        evaluation_row(i, model, style, i < right.get(place, 0), kind=place[1], split=place[0])
        for place, n in SHAPE.items()
        for i in range(n)
    ]


def report_of(**right):
    """report.json of a run whose models are right as often as given; what the benchmark reads of it."""
    rows = answers("base", "tools", {}) + answers("base", "plain", BASE)
    for model in ("sft", "cold_start", "grpo"):
        rows += answers(model, "trained", right.get(model, TUNED))
    stages = ["base_model", "questions", "traces", "tool_insertion", "loss_filter", "sft", "cold_start", "grpo"]
    return {
        "status": "completed",
        "peak_rss_mb": 4000.0,
        "stages": [{"name": name, "status": "ran", "wall_s": 10.0, "rows_in": 300} for name in stages],
        "ledger": {kind: {"paid": 7, "replayed": 0, "failed": 0} for kind in ("teacher", "search")},
        "evaluation": summarise_evaluation(rows),
        "evaluation_by": breakdown(rows),
        "training": {name: {"steps": 6} for name in ("sft", "cold_start", "grpo")},
        "filter": {"with_calls": 40, "kept": 30, "sft_rows": 35},
    }


def verdicts(rows):
    return {row.what: row.ok for row in rows}


def only(rows, word):
    (found,) = [row for row in rows if word in row.what]
    return found


# ---------------------------------------------------------------- quality
def test_a_model_that_learnt_reaches_every_quality_target():
    rows = list(main_job.quality_rows(report_of()))
    assert all(row.ok for row in rows), verdicts(rows)
    assert len(rows) == 6


def test_the_better_prompt_style_of_the_base_is_what_sft_must_beat():
    row = only(main_job.quality_rows(report_of()), "over base, arithmetic questions of trained")
    # 16 of 20 against 4 of 20 with the plain prompt, not against 0 with the tool prompt.
    assert row.measured == 60.0
    assert "plain" in row.reason


def test_thirty_nine_points_are_too_few_and_forty_enough():
    ok = {
        n: main_job.over_base(report_of(sft={("test", "arithmetic"): n}), "test", "arithmetic", 40).ok for n in (11, 12)
    }
    assert ok == {11: False, 12: True}


def test_no_better_than_the_base_on_unseen_templates_is_not_better():
    rows = list(main_job.quality_rows(report_of(sft={**TUNED, ("test_unseen", "arithmetic"): 1})))
    assert only(rows, "arithmetic questions of unseen").ok is False
    assert only(rows, "two_hop questions of unseen").ok is True


def test_an_evaluation_that_is_missing_is_not_reached():
    report = report_of()
    report["evaluation_by"] = [cell for cell in report["evaluation_by"] if cell["model"] != "sft"]
    rows = list(main_job.quality_rows(report))
    assert not any(row.ok for row in rows)


# ---------------------------------------------------------------- GRPO
FACTS = {"steps": 6, "adapter_before": "a", "adapter_after": "b", "groups": 12, "groups_with_variance": 6}


def test_grpo_that_moved_and_broke_nothing_reaches_its_targets():
    rows = list(main_job.grpo_rows(report_of(), FACTS))
    assert all(row.ok for row in rows), verdicts(rows)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 4}, "steps"),
        ({"adapter_after": "a"}, "weights"),
        ({"groups_with_variance": 5}, "groups"),
        ({}, "none"),
    ],
)
def test_each_fact_of_grpo_counts_by_itself(change, word):
    rows = list(main_job.grpo_rows(report_of(), {**FACTS, **change}))
    assert [row.what for row in rows if not row.ok] == [row.what for row in rows if word in row.what]


def test_grpo_below_the_interval_of_the_cold_start_is_worse():
    report = report_of(grpo={("test", "arithmetic"): 6})
    assert only(main_job.grpo_rows(report, FACTS), "accuracy").ok is False


def test_a_checkpoint_that_says_nothing_reaches_nothing():
    rows = [row for row in main_job.grpo_rows(report_of(), {}) if "accuracy" not in row.what]
    assert not any(row.ok for row in rows)


# ---------------------------------------------------------------- cold and warm
def cold(report, **changes):
    fields = {
        "folder": "/bench/demo-1",
        "arguments": ["run", "demo"],
        "code": 0,
        "wall_s": 840.0,
        "commit": "c0ffee" * 7,
    }
    return Measured(**{**fields, "report": report, "said": "", **changes})


def test_a_cold_run_reports_time_memory_and_the_size_of_the_evaluation():
    rows = list(main_job.cold_rows(cold(report_of())))
    assert [row.ok for row in rows] == [True, True, False]  # the hand-made report asks 30 + 10, not 64 + 32
    assert rows[0].measured == 840.0
    assert "loss_filter 10" in rows[0].reason
    assert rows[1].measured == 4.19
    assert rows[2].measured == "30 + 10"


def test_a_remembered_run_says_so_and_of_which_commit():
    row = next(iter(main_job.cold_rows(cold(report_of(), remembered=True))))
    assert "not run again" in row.reason
    assert "c0ffeec0ffee" in row.reason


def test_a_cold_run_that_failed_is_one_row_with_its_last_words():
    rows = list(main_job.cold_rows(cold({}, code=1, said="error: no space left")))
    assert verdicts(rows) == {rows[0].what: False}
    assert "no space left" in rows[0].reason


def test_a_second_run_that_finds_everything_is_free():
    report = report_of()
    for stage in report["stages"]:
        stage["status"] = "reused"
    for use in report["ledger"].values():
        use.update(paid=0, replayed=0)
    rows = list(main_job.second_run_rows(Ran(0, 21.0, ""), report))
    assert [row.measured for row in rows] == [21.0, 0, 0]
    assert all(row.ok for row in rows)


def test_a_second_run_that_works_again_is_not_ok():
    rows = list(main_job.second_run_rows(Ran(0, 31.0, ""), report_of()))
    assert [row.ok for row in rows] == [False, False, False]
    assert rows[2].measured == 18
    assert "grpo" in rows[2].reason


def test_what_ran_after_a_change_must_be_sft_and_what_follows():
    good = set(main_job.AFTER_SFT)
    assert main_job.changed_row("x", good, True).ok is True
    assert main_job.changed_row("x", good | {"traces"}, True).ok is False
    assert main_job.changed_row("x", good - {"evaluate-grpo"}, True).ok is False


# ---------------------------------------------------------------- remembering
def test_a_finished_run_is_found_again_and_an_unfinished_one_is_not(tmp_path):
    smoke = load_recipe("smoke")
    first = main_job.demo_folder(tmp_path, smoke)
    assert first.is_dir()
    assert main_job.demo_folder(tmp_path, smoke) != first
    (first / "cold.json").write_text("{}")
    assert main_job.demo_folder(tmp_path, smoke) == first
    other = load_recipe("smoke", ["sft.settings.max_steps=5"])
    assert main_job.demo_folder(tmp_path, other) != first


def test_a_remembered_run_is_used_only_for_the_same_command(tmp_path):
    stored = {
        "folder": "elsewhere",
        "arguments": ["run", "demo"],
        "code": 0,
        "wall_s": 9.0,
        "commit": "c",
        "report": {},
    }
    (tmp_path / "cold.json").write_text(json.dumps({**stored, "said": "", "remembered": False}))
    found = main_job.measure_once(tmp_path, "cold", ["run", "demo"], "demo")
    assert (found.remembered, found.wall_s, found.runs) == (True, 9.0, tmp_path / "runs")


def test_a_new_run_of_another_command_is_really_made_and_its_failure_not_remembered(tmp_path):
    failed = main_job.measure_once(tmp_path, "cold", ["run", "no-such-recipe"], "demo")
    assert (failed.remembered, failed.code) == (False, 2)
    assert "no-such-recipe" in failed.said
    assert not (tmp_path / "cold.json").exists()


# ---------------------------------------------------------------- other commands
def test_a_command_s_output_and_code_come_back_and_the_caller_s_ledger_stays_out(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_LEDGER", "sqlite:///mine.db")
    script = "import os, sys; print(os.environ.get('AGENTFLOW_LEDGER')); sys.exit(3)"
    ran = main_job.execute([sys.executable, "-c", script], tmp_path / "log")
    assert (ran.code, ran.output.strip()) == (3, "None")


def test_a_command_that_takes_too_long_is_interrupted(tmp_path):
    script = "import signal, time; time.sleep(60)"
    ran = main_job.execute([sys.executable, "-c", script], tmp_path / "log", longest_s=0.3)
    assert ran.code == 124


def test_tests_that_were_all_skipped_did_not_run(tmp_path):
    file = tmp_path / "test_a.py"
    file.write_text("import pytest\n\ndef test_a():\n    pytest.skip('no such data')\n")
    row = main_job.pytest_row("tests", "pass", [str(file), "-p", "no:cacheprovider"], tmp_path / "log", 60)
    assert (row.ran, row.ok) == (False, None)
    file.write_text("def test_a():\n    assert True\n")
    assert main_job.pytest_row("tests", "pass", [str(file), "-p", "no:cacheprovider"], tmp_path / "log", 60).ok is True
    file.write_text("def test_a():\n    assert False\n")
    assert main_job.pytest_row("tests", "pass", [str(file), "-p", "no:cacheprovider"], tmp_path / "log", 60).ok is False


def test_real_rows_need_every_stage_in_the_report_and_no_teacher():
    report = report_of()
    report["ledger"]["teacher"]["paid"] = 0
    assert all(row.ok for row in main_job.real_report_rows("x: ", report))
    paid = copy.deepcopy(report)
    paid["ledger"]["teacher"]["paid"] = 1
    assert [row.ok for row in main_job.real_report_rows("x: ", paid)] == [False, True]
    report["stages"].pop()
    assert [row.ok for row in main_job.real_report_rows("x: ", report)] == [True, False]
