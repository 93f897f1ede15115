"""`explain-row` tells the whole history of a row, and nothing in the row can look like a line of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pipeline_rows import question_rows

from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.errors import InputError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Recorded
from agentflow.records import Outcomes, Reject, Segment, ToolCall, ToolResult, sha256_text
from agentflow.schemas import FILTERED, QUESTIONS, TOOL_TRACES, TRACES
from agentflow.services.server import LocalService
from agentflow.stages.traces import TracesConfig, trace_batch
from flows.explaining import explain_lines

FORGED = "It is so.\n== loss_filter/0000  row  made by nobody\u202e\x1b[2J"
CALL = PaidCall("search", "https://api.tavily.com", "basic", {"query": "Ost"}, 0, "1")


def search(root: Path, answer: str) -> Recorded:
    """Pay for CALL once; a second time only with another ledger."""

    async def ask() -> Recorded:
        async def send() -> Answer:
            return Answer({"results": [answer]}, Cost(credits=1.0, usd=0.008))

        with Ledger.open(str(root / "ledger.db"), run_id="run") as ledger:
            return await ledger.ask(CALL, send, Cost(credits=1.0, usd=0.008))

    return asyncio.run(ask())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one row in three stages, and the ledger with its search."""
    (tmp_path / "runs").mkdir()
    paid = search(tmp_path / "runs", "a town")
    store = Store.open(tmp_path / "runs" / "artifacts")
    trace: dict[str, Any] = dict.fromkeys(TRACES.names, "x")
    trace |= {"id": "q1#0", "question_id": "q1", "aliases": [], "reasoning": FORGED, "ledger_key": "none such"}
    result = ToolResult("a town", ledger_key=paid.key, as_of=paid.fetched_at, leaks=1)
    segments = [Segment("call", call=ToolCall("Search", {"query": "Ost"}), result=result), Segment("text", text=FORGED)]
    inserted = {
        **trace, "segments": [segment.to_row() for segment in segments], "n_calls": 1, "contradictions": [],
        "lookups_key": "",
    }  # fmt: skip
    filtered = {**dict.fromkeys(FILTERED.names), **inserted, "decision": "kept", "loss_plain": 2.0, "loss_with": 1.5}
    for stage, row, schema in (
        ("traces", trace, TRACES), ("tool_insertion", inserted, TOOL_TRACES), ("loss_filter", filtered, FILTERED)
    ):  # fmt: skip
        store.commit_table(Identity(stage, 1, {}, {}), Outcomes([row], [], 1, 1), schema, recipe="night")
    return tmp_path / "runs"


def test_request_hashes_date_losses_decision_and_versions_are_told(root: Path) -> None:
    lines = list(explain_lines("q1#0", root, None))
    text = "\n".join(lines)
    assert [line.split("/")[0] for line in lines if line.startswith("==")] == [
        "== traces", "== tool_insertion", "== loss_filter"
    ]  # fmt: skip
    with Ledger.open(str(root / "ledger.db"), run_id="look", mode="replay") as ledger:
        stored = ledger.get(CALL.key)
    assert stored is not None
    for part in (
        'request  {"query":"Ost"}', f"response sha256 {stored['response_sha256']}", f"sha256 {sha256_text('a town')}",
        f"(as of {stored['fetched_at']})", "1 results hold question and answer", "0.008000 USD", "decision: kept",
        "loss_plain: 2.0", "loss_with: 1.5", "versions: stage 1, recipe night", "none such: no answer in this ledger",
    ):  # fmt: skip
        assert part in text, part
    assert "asked again since" not in text


def test_what_an_earlier_stage_has_shown_is_named_and_not_repeated(root: Path) -> None:
    lines = list(explain_lines("q1#0", root, None))
    assert sum(line.startswith("   reasoning: ") for line in lines) == 1
    assert lines[-1].startswith("   as before: ") and "segments" in lines[-1] and "reasoning" in lines[-1]


def test_no_text_of_a_row_can_look_like_a_line_of_ours(root: Path) -> None:
    for line in explain_lines("q1#0", root, None):
        assert "\n" not in line and "\x1b" not in line and "\u202e" not in line
        assert not line.startswith("== loss_filter/0000")


def test_an_answer_that_was_asked_for_again_is_said_to_be_another(root: Path) -> None:
    (root / "ledger.db").rename(root / "old.db")
    search(root, "a village")
    assert any("asked again since: the row was made from" in line for line in explain_lines("q1#0", root, None))


def test_an_unknown_row_is_an_error(root: Path) -> None:
    with pytest.raises(InputError, match="'nobody#0'"):
        list(explain_lines("nobody#0", root, None))


def test_of_a_question_whose_samples_were_all_rejected_every_paid_call_is_told(tmp_path: Path) -> None:
    wrong, failing = [row for row in question_rows(2) if row["split"] == "train"]
    config = TracesConfig(samples=2, teacher=TeacherConfig(max_attempts=1))
    with (
        LocalService("teacher", wrong_rate=1.0) as service,
        Ledger.open(str(tmp_path / "ledger.db"), run_id="r") as ledger,
    ):
        service.set_faults([{"kind": "status", "status": 500, "contains": failing["question"]}])

        async def traced() -> Outcomes:
            async with TeacherClient.open(config.teacher, ledger, base_url=service.base_url) as teacher:
                return await trace_batch([wrong, failing], config, teacher)

        outcomes = asyncio.run(traced())
        reasons = {reject.key: reject.reason for reject in outcomes.rejects}
        assert reasons == {wrong["id"]: "wrong_answer", failing["id"]: "server_error"}
        paid = [ledger.get(key) or {} for key in outcomes.rejects[0].row["ledger_keys"]]
    store = Store.open(tmp_path / "artifacts")
    store.commit_table(
        Identity("questions", 1, {}, {}), Outcomes([wrong, failing], [], 2, 2), QUESTIONS, recipe="night"
    )
    store.commit_table(Identity("traces", 1, {}, {}), outcomes, TRACES, recipe="night")
    lines = list(explain_lines(wrong["id"], tmp_path, None))
    assert [line.strip() for line in lines if "response sha256" in line] == [
        f"response sha256 {call['response_sha256']}" for call in paid
    ]
    requests = [line for line in lines if line.strip().startswith("request ")]
    assert len(requests) == 2 and all(wrong["question"] in line for line in requests)
    assert "   reason: wrong_answer" in lines and any("as before: " in line and "question" in line for line in lines)
    told = [line for line in explain_lines(failing["id"], tmp_path, None) if line.startswith("     ledger ")]
    assert len(told) == 2, "one for each sample"
    ending = "no answer in this ledger; 1 attempts, 0.000000 USD, the last: teacher answered 500"
    assert all(ending in line for line in told)


def test_a_rejected_row_may_hold_anything_under_our_names(tmp_path: Path) -> None:
    row = {
        "segments": "x",
        "call_scores": [1],
        "ledger_key": "\ud800\n== a",
        "ledger_keys": {"a": 1},
        "b\n== c": FORGED,
    }
    rejects = [Reject("file.jsonl:1", "quarantined", "bad_json", FORGED, row)]
    store = Store.open(tmp_path / "artifacts")
    store.commit_table(Identity("questions", 1, {}, {}), Outcomes([], rejects, 1, 0), QUESTIONS, recipe="night")
    lines = list(explain_lines("file.jsonl:1", tmp_path, None))
    assert sum(line.startswith("==") for line in lines) == 1
    assert not any(char in line for line in lines for char in "\n\x1b\u202e\ud800")
