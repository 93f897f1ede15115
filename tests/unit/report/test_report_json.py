"""report.json: the promised shape, valid JSON for any numbers, counts that add up."""

import json
import os
from html import unescape

import pytest
from pipeline_rows import filtered_rows
from report_rows import checkpoint, manifest, rollout_row, trace_row

from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.errors import StoreError
from agentflow.records import Outcomes, Reject
from agentflow.report.build import build_report
from agentflow.report.model import RunRecord, StageRun
from agentflow.report.samples import judged_calls
from agentflow.report.summary import rollout_steps, summarise_filter, summarise_run, summarise_stage
from agentflow.schemas import FILTERED, QUESTIONS


def test_report_json_has_the_promised_keys(record):
    build_report(record)
    report = json.loads((record.out_dir / "report.json").read_text())
    assert {"recipe", "wall_s", "peak_rss_mb", "stages", "ledger", "evaluation"} <= set(report)
    for stage in report["stages"]:
        wanted = {"name", "status", "rows_in", "rows_out", "dropped", "quarantined", "failed", "wall_s"}
        assert wanted <= set(stage)
        assert stage["status"] in ("ran", "reused")
    assert report["ledger"]["teacher"] == {"paid": 400, "replayed": 12, "failed": 3, "lost": 2}
    assert report["ledger"]["usd_assumed"] == 0.25
    assert {"search", "tokens_in", "tokens_out", "usd"} <= set(report["ledger"])
    assert list(report["evaluation"]) == ["base", "sft", "cold_start", "grpo"]
    wanted = {"questions", "accuracy", "ci95", "tool_call_rate", "format_rate", "failed"}
    assert all(wanted <= set(cell) for cell in report["evaluation"].values())


def test_the_funnel_of_every_stage_adds_up(record):
    for stage in summarise_run(record)["stages"]:
        if stage["keys_out"] is None:  # a checkpoint
            continue
        ends = stage["keys_out"] + sum(stage["dropped"].values()) + stage["quarantined"] + stage["failed"]
        assert stage["rows_in"] == ends


def test_rows_out_are_rows_and_not_keys_where_a_question_gives_several():
    line = summarise_stage(StageRun(name="traces", status="ran", manifest=manifest("traces", 10, 10, rows=40)))
    assert (line["keys_out"], line["rows_out"]) == (10, 40)


def test_rejects_are_given_in_all_and_by_reason():
    told = manifest("traces", 10, 5, {"wrong_answer": 2}, quarantined={"nan_loss": 1}, failed={"timeout": 2})
    line = summarise_stage(StageRun(name="traces", status="ran", manifest=told))
    assert (line["quarantined"], line["failed"]) == (1, 2)
    assert line["failed_by"] == {"timeout": 2}


def test_a_checkpoint_has_no_counts_and_says_what_it_read():
    line = summarise_stage(StageRun(name="sft", status="ran", manifest=checkpoint("sft", rows_in=340)))
    assert (line["rows_in"], line["rows_out"], line["keys_out"]) == (340, 0, None)


def test_a_run_with_nothing_in_it_still_gives_a_report(tmp_path):
    run = RunRecord(recipe="smoke", out_dir=tmp_path, status="failed", error="budget of 1.00 USD reached")
    build_report(run)
    assert json.loads((tmp_path / "report.json").read_text())["evaluation"] == {}
    assert "budget of 1.00 USD reached" in (tmp_path / "report.html").read_text()


def test_numbers_that_are_not_finite_become_null(record):
    broken = record.model_copy(update={"logs": {"sft": [{"step": 1, "loss": float("nan")}]}, "wall_s": float("inf")})
    build_report(broken)
    text = (record.out_dir / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["wall_s"] is None


def test_the_filter_counts_dropped_losers_in_its_yield(tmp_path):
    pairs = [trace_row(i, "kept" if i < 3 else "calls_removed", 0.1 if i < 3 else -0.1) for i in range(4)]
    tables = {"tool_insertion": [before for before, _ in pairs], "loss_filter": [after for _, after in pairs[:3]]}
    found = summarise_filter(RunRecord(recipe="r", out_dir=tmp_path, tables=tables))
    assert (found["with_calls"], found["kept"], found["yield"]) == (4, 3, 0.75)
    assert found["sft_share_with_calls"] == 1.0
    calls = {"calls": 8, "calls_kept": 6, "calls_removed": 2}
    assert found["by_tool"] == {"Calculator": {"with_calls": 4, "kept": 3, "yield": 0.75, **calls}}


def test_dropped_losers_are_among_the_deltas_and_the_judged_calls(tmp_path):
    pairs = [trace_row(i, "kept" if i < 3 else "calls_removed", 0.1 * i if i < 3 else -0.4) for i in range(4)]
    tables = {"tool_insertion": [before for before, _ in pairs], "loss_filter": [after for _, after in pairs[:3]]}
    reject = {"key": "x", "status": "dropped", "reason": "calls_do_not_help", "row": pairs[3][1]}
    run = RunRecord(recipe="r", out_dir=tmp_path, tables=tables, rejects={"loss_filter": [reject]})
    deltas = {"n": 4, "min": -0.4, "p10": -0.4, "median": 0.1, "p90": 0.2, "max": 0.2}
    assert summarise_filter(run)["deltas"] == deltas
    judged = judged_calls(run)
    assert (judged["least"][0]["delta"], judged["least"][0]["kept"]) == (-0.4, False)
    assert judged["most"][0]["delta"] == pytest.approx(0.21) and judged["most"][0]["kept"]
    assert judged["most"][0]["inside"] and "=" in judged["most"][0]["before"]


def test_rejects_are_reported_as_the_store_gives_them_back(tmp_path):
    """Not as another test wrote them down: what the filter drops goes through a real artifact into both files."""
    question = {"id": "q9", "question": "What is 2+2?", "split": "train"}
    leak = Reject("train.jsonl:9", "dropped", "leak_ngram", "there", question)
    stages = {"questions": StageRun(name="questions", status="ran", manifest=manifest("questions", 1, 0))}
    stages["questions"].manifest["extra"]["hygiene"] = {"checked": 1, "evaluation": 1, "against": {}, "dropped": {}}
    first, second = filtered_rows(2)
    worse = {**second, "delta": -0.25}
    loser = Reject(second["id"], "dropped", "calls_do_not_help", "loss 1 without and 2 with calls", worse)
    store = Store.open(tmp_path / "artifacts")
    kept = store.commit_table(
        Identity("loss_filter", 1, {}, {}), Outcomes([first], [loser], 2, 1), FILTERED, recipe="r"
    )
    asked = store.commit_table(Identity("questions", 1, {}, {}), Outcomes([], [leak], 1, 0), QUESTIONS, recipe="r")
    run = RunRecord(
        recipe="r",
        out_dir=tmp_path / "r",
        stages=list(stages.values()),
        tables={"loss_filter": kept.rows()},
        rejects={"questions": asked.rejects(), "loss_filter": kept.rejects()},
    )
    build_report(run)
    assert json.loads((run.out_dir / "report.json").read_text())["filter"]["deltas"]["min"] == -0.25
    page = unescape((run.out_dir / "report.html").read_text())
    assert "What is 2+2?" in page[page.index('<section id="hygiene">') :]
    assert '"decision": "kept"' in page[page.index('<section id="rejects">') :]


def test_losers_that_stay_lower_the_share_of_rows_with_calls(tmp_path):
    rows = [trace_row(i, "kept" if i < 1 else "calls_removed", 0.1)[1] for i in range(4)]
    found = summarise_filter(RunRecord(recipe="r", out_dir=tmp_path, tables={"loss_filter": rows}))
    assert (found["yield"], found["sft_share_with_calls"]) == (0.25, 0.25)


def test_a_failed_rollout_is_in_no_mean_and_makes_no_variance():
    rows = [rollout_row(1, 0, 0, 1.0), rollout_row(1, 0, 1, 1.0), rollout_row(1, 0, 2, 9.0, "failed")]
    (step,) = rollout_steps(rows)
    assert (step["reward"], step["failed"], step["groups"], step["groups_with_variance"]) == (1.0, 1, 1, 0)


def test_groups_with_different_rewards_are_counted_as_having_variance():
    rows = [rollout_row(1, group, sample, 1.0 + group * sample) for group in range(2) for sample in range(2)]
    (step,) = rollout_steps(rows)
    assert (step["groups"], step["groups_with_variance"]) == (2, 1)


def test_an_unwritable_folder_is_named_and_the_old_report_stays(record):
    build_report(record)
    before = (record.out_dir / "report.json").read_bytes()
    blocked = record.model_copy(update={"out_dir": record.out_dir / "report.json"})
    with pytest.raises(StoreError, match="report.json"):
        build_report(blocked)
    assert (record.out_dir / "report.json").read_bytes() == before
    assert sorted(os.listdir(record.out_dir)) == ["report.html", "report.json"]


def test_the_same_run_gives_the_same_bytes(record, tmp_path):
    build_report(record)
    again = record.model_copy(update={"out_dir": tmp_path / "again"})
    build_report(again)
    for name in ("report.json", "report.html"):
        assert (record.out_dir / name).read_bytes() == (again.out_dir / name).read_bytes()
