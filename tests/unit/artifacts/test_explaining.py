"""`explain-row` tells the whole history of a row, and nothing in the row can look like a line of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.errors import InputError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Recorded
from agentflow.records import Outcomes, Segment, ToolCall, ToolResult, sha256_text
from agentflow.schemas import FILTERED, TOOL_TRACES, TRACES
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
