"""What plan, show, diff, explain-row and recipes print about what is made already, and where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import agentflow
from whole_run import FinishedRun

from agentflow.records import sha256_text


def test_plan_says_reuse_for_everything_after_a_run(smoke: FinishedRun) -> None:
    result = agentflow("plan", "smoke", "--root", smoke.root)
    lines = result.output.splitlines()
    assert result.exit_code == 0 and len(lines) == len(smoke.artifacts)
    assert all(line.split()[0] == "reuse" for line in lines)


def test_plan_names_the_field_because_of_which_a_stage_would_run(smoke: FinishedRun) -> None:
    result = agentflow("plan", "smoke", "--set", "loss_filter.tau=0.1", "--root", smoke.root)
    said = {line.split()[1]: line for line in result.output.splitlines() if line.startswith(("run", "reuse"))}
    assert said["tool_insertion"].startswith("reuse") and said["loss_filter"].startswith("run")
    assert "because config.tau: 0.0 -> 0.1" in said["loss_filter"]
    assert "because inputs.loss_filter" in said["sft"]


def test_plan_of_an_empty_root_says_that_nothing_is_made_yet(tmp_path: Path) -> None:
    result = agentflow("plan", "smoke", "--root", tmp_path)
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.output.splitlines()} == {"run", "estimate", "size", "memory", "time"}
    assert "nothing made yet" in result.output


def test_plan_says_before_anything_runs_what_the_paid_calls_will_cost(tmp_path: Path) -> None:
    prices = ["teacher.usd_per_million_in=1", "teacher.usd_per_million_out=2", "search.usd_per_credit=0.008"]
    settings = [*prices, "teacher.max_tokens=1000", "traces.samples=2"]
    result = agentflow("plan", "smoke", *[f for s in settings for f in ("--set", s)], "--root", tmp_path)
    said = [line for line in result.output.splitlines() if line.startswith("estimate")]
    (traces,) = [line for line in said if " traces " in line]
    assert " 48 calls" in traces and "no earlier answers" in traces, "16 + 8 questions, two samples each"
    assert "worst case 0.1" in traces, "48 answers of 1,000 tokens at 2 USD a million, and the prompts"
    assert [line.split()[1:3] for line in said[1:4]] == [
        ["tool_insertion", "teacher"],
        ["tool_insertion", "search"],
        ["grpo", "search"],
    ]
    assert said[-1].startswith("estimate total: expected") and not (tmp_path / "ledger.db").exists()


def test_plan_ignores_where_and_how_fast_something_runs(smoke: FinishedRun) -> None:
    where = ["teacher.local.latency_ms=5", "traces.batch_size=2", "teacher.concurrency=1", "search.max_attempts=9"]
    result = agentflow("plan", "smoke", *[f for s in where for f in ("--set", s)], "--root", smoke.root)
    assert {line.split()[0] for line in result.output.splitlines()} == {"reuse"}


def test_show_prints_the_manifest_and_rows_of_every_artifact_the_report_names(smoke: FinishedRun) -> None:
    for stage in smoke.report["stages"]:
        result = agentflow("show", stage["artifact"], "--rows", 1, "--root", smoke.root)
        assert result.exit_code == 0, stage["artifact"]
        assert f'"fingerprint": "{stage["artifact"].split("/")[1]}"' in result.output
        row = '"question"' in result.output
        assert row == smoke.artifacts[stage["name"]].is_table


def test_show_takes_the_start_of_a_fingerprint_and_lists_candidates_otherwise(smoke: FinishedRun) -> None:
    fingerprint = smoke.artifacts["sft"].fingerprint
    assert fingerprint in agentflow("show", fingerprint[:10], "--root", smoke.root).output
    unknown = agentflow("show", "sft/nothing", "--root", smoke.root)
    assert unknown.exit_code == 2
    assert "'sft/nothing'" in unknown.output and smoke.artifacts["sft"].ref in unknown.output


def test_diff_compares_configuration_counts_and_rows(smoke: FinishedRun) -> None:
    names = ("evaluate-base-plain", "evaluate-base-tools")
    result = agentflow("diff", *[smoke.artifacts[name].ref for name in names], "--root", smoke.root)
    assert result.exit_code == 0
    assert "config.style: 'plain' -> 'tools'" in result.output and "rows: 8, 8" in result.output
    same = agentflow("diff", *[smoke.artifacts["traces"].ref] * 2, "--root", smoke.root)
    assert same.exit_code == 0 and "differs" not in same.output


def test_explain_row_tells_the_whole_history_of_a_row_with_calls(smoke: FinishedRun) -> None:
    row = next(r for r in smoke.artifacts["tool_insertion"].rows() if any(s["tool"] == "Search" for s in r["segments"]))
    result = agentflow("explain-row", row["id"], "--root", smoke.root)
    assert result.exit_code == 0
    for name in ("questions", "traces", "tool_insertion", "loss_filter"):
        assert f"== {smoke.artifacts[name].ref}" in result.output
    for word in (
        "call   Search",
        "(as of ",
        "decision: ",
        "loss_with: ",
        "search local/",
        "teacher local/",
        "1 attempts",
        "versions: stage ",
        "       request  {",
        "       response sha256 ",
        "lookups_key: ",
    ):
        assert word in result.output
    shown = next(segment for segment in row["segments"] if segment["tool"] == "Search")
    assert f"sha256 {sha256_text(shown['result'])}" in result.output


def test_explain_row_finds_the_rollouts_about_a_question(smoke: FinishedRun) -> None:
    rollout = smoke.artifacts["grpo"].inner_table("rollouts").to_pylist()[0]
    result = agentflow("explain-row", rollout["question_id"], "--root", smoke.root)
    assert f"== {smoke.artifacts['grpo'].ref}  row" in result.output and f"id: {rollout['id']}" in result.output


def test_explain_row_says_why_a_row_was_dropped(smoke: FinishedRun) -> None:
    dropped = smoke.artifacts["traces"].rejects()[0]
    result = agentflow("explain-row", dropped["key"], "--root", smoke.root)
    assert result.exit_code == 0
    assert "wrong_answer" in result.output and "instead of" in result.output


def test_explain_row_of_an_unknown_id_says_how_to_find_one(smoke: FinishedRun) -> None:
    result = agentflow("explain-row", "nobody#0", "--root", smoke.root)
    assert result.exit_code == 2 and "'nobody#0'" in result.output and "agentflow show" in result.output


@pytest.mark.parametrize("command", [["show", "sft/"], ["diff", "a", "b"], ["explain-row", "x"], ["show-tokens", "x"]])
def test_looking_where_nothing_is_says_so_and_makes_nothing(command: list[str], tmp_path: Path) -> None:
    result = agentflow(*command, "--root", tmp_path / "typo")
    assert result.exit_code == 2 and str(tmp_path / "typo") in result.output and "--root" in result.output
    assert not list(tmp_path.iterdir())


def test_recipes_lists_every_recipe() -> None:
    result = agentflow("recipes")
    assert result.exit_code == 0 and {"demo", "smoke"} <= {line.split()[0] for line in result.output.splitlines()}
