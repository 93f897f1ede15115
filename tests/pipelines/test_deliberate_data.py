"""The recipe `deliberate_data` on a few real rows with a tiny scorer: recorded GSM8K, taught HotpotQA, searches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from whole_run import FinishedRun, run_recipe

from agentflow.insertion.splice import plain_text
from agentflow.records import Segment
from flows.recipes import load_recipe

pytestmark = pytest.mark.faults

SETTINGS = (
    "base_model.source.kind=tiny",
    "questions.source.parts.0.limit=6",
    "questions.source.parts.1.limit=4",
    "loss_filter.n_examples=0",
    'tool_insertion.sampled={"tau_s": 0, "k": 2, "m": 1, "n_examples": 0, "max_call_tokens": 8}',
)
# Sampling runs too; a random model writes no call that could be used.


@pytest.fixture(scope="module")
def run(ray_up: None, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    data = repository.parent / "shared" / "data"
    if not (data / "search_corpus").is_dir():
        pytest.skip(f"real rows are not here: {data}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTFLOW_DATA", str(data))
        return run_recipe(load_recipe("deliberate_data", SETTINGS), tmp_path_factory.mktemp("deliberate") / "runs")


def test_the_run_ends_with_the_loss_filter_and_accounts_for_every_row(run: FinishedRun) -> None:
    assert list(run.statuses) == ["base_model", "questions", "traces", "tool_insertion", "loss_filter"]
    for name in ("questions", "traces", "tool_insertion", "loss_filter"):
        counts = run.artifacts[name].manifest.counts
        assert counts is not None and counts.total == 10 and counts.out == 10


def test_where_calls_are_sampled_the_base_model_is_an_input(run: FinishedRun) -> None:
    inputs = run.artifacts["tool_insertion"].manifest.inputs
    assert inputs["base_model"] == run.artifacts["base_model"].fingerprint


def test_only_hotpotqa_is_asked_of_the_teacher_and_everything_it_marks_is_searched(run: FinishedRun) -> None:
    traces = run.artifacts["traces"].rows()
    assert {row["kind"]: row["teacher"] == "recorded" for row in traces} == {"gsm8k": True, "hotpotqa": False}
    searches = [s for row in run.artifacts["tool_insertion"].rows() for s in row["segments"] if s["tool"] == "Search"]
    assert run.services["teacher"]["requests"] == 4 + 4, "a trace and its lookups for each question"
    assert run.services["search"]["requests"] == len({segment["arguments"] for segment in searches})


def test_calls_stand_in_the_reasoning_and_taking_them_out_gives_it_back(run: FinishedRun) -> None:
    before = {row["id"]: row for row in run.artifacts["traces"].rows()}
    calls: Counter[str] = Counter()
    for row in run.artifacts["tool_insertion"].rows():
        segments = [Segment.from_row(segment) for segment in row["segments"]]
        assert plain_text(segments) == row["reasoning"] == before[row["id"]]["reasoning"]
        tools = {segment.call.tool for segment in segments if segment.call}
        assert tools == ({"Calculator"} if row["kind"] == "gsm8k" else {"Search"})
        calls.update(segment.call.tool for segment in segments if segment.call)
        assert bool(row["lookups_key"]) == (row["kind"] == "hotpotqa")
    assert run.artifacts["tool_insertion"].manifest.extra["calls"] == dict(calls)


def test_every_row_has_a_decision(run: FinishedRun) -> None:
    rows = run.artifacts["loss_filter"].rows()
    assert all(row["loss_plain"] is not None for row in rows)
    assert {row["decision"] for row in rows} <= {"kept", "calls_removed"}
