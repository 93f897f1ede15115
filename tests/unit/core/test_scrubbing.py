"""Personal data is found by its shape, numbers of word problems are not, and nothing changes while it is off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentflow.records import Outcomes, Reject, Segment, ToolCall, ToolResult
from agentflow.scrubbing import TYPES, ScrubConfig, mark, removed, scrub, scrub_segments, scrub_traces
from agentflow.sources.source import GeneratedSource, load_questions
from agentflow.stages.traces import recorded_traces

ALL = ScrubConfig(types=TYPES)
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

FOUND = {
    "email": ["mia@example.org", "a.b-c+d@sub.example.co.uk"],
    "phone": ["+1 415-555-2671", "(415) 555-2671", "415-555-2671", "415.555.2671", "+4915112345678"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "3782 822463 10005", "2223003122003222"],
    "ip": ["192.168.0.1", "2001:db8::1", "fe80::1ff:fe23:4567:890a"],
    "ssn": ["123-45-6789"],
}
LEFT = [
    "500-50-1000 = -550", "500-200-1000=-700", "48/2 = 24 and 48+24 = 72", "4158000000 dollars", "+12345678", "10^16",
    "$4111111111111111", "4111111111111112 (no Luhn)", "12:30:45", "a::b", "1.2.3", "999.999.999.999", "mia@", "@mia",
    "DE89 3704 0044 0532 0130 01", "000-12-3456", "1947) 234 2000", "1,234,567.89", "1 200 300 4000", "",
    "3 * 4111111111111111 = 12333333333333333", "١٢٣-٤٥-٦٧٨٩",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_a_find_is_replaced_and_counted_by_type(kind, text):
    assert scrub(f"Ask {text}, please.", ALL) == (f"Ask {mark(kind)}, please.", {kind: 1})


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_stays(text):
    assert scrub(text, ALL) == (text, {})


def test_only_the_types_asked_for_are_looked_for_and_marks_are_no_finds():
    text = "mia@example.org, 192.168.0.1"
    assert scrub(text, ScrubConfig())[0] == text
    once, counts = scrub(text, ScrubConfig(types=("ip",)))
    assert once == f"mia@example.org, {mark('ip')}" and counts == {"ip": 1}
    whole, _ = scrub(text, ALL)
    assert scrub(whole, ALL) == (whole, {})
    assert scrub("0151 12345678 or 030/901820", ScrubConfig(types=("phone",), phone_region="DE"))[1] == {}
    assert scrub("030 901820 99", ScrubConfig(types=("phone",), phone_region="DE"))[1] == {"phone": 1}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not beside this checkout")
@pytest.mark.parametrize("name", ["train", "test"])
def test_no_number_of_a_real_word_problem_is_taken_for_personal_data(name):
    lines = (SHARED / "gsm8k" / f"{name}.jsonl").read_text().splitlines()[:600]
    for line in lines:
        record = json.loads(line)
        for text in (record["question"], record["answer"]):
            assert scrub(text, ALL) == (text, {})


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not beside this checkout")
def test_addresses_in_real_tool_conversations_are_found():
    text = (SHARED / "glaive_toolcall" / "glaive_en.jsonl").read_text()
    assert scrub(text, ScrubConfig(types=("email",)))[1]["email"] > 0


# ---------------------------------------------------------------- rows
def questions(*rationales: str) -> list[dict]:
    rows = load_questions(GeneratedSource(arithmetic_train=len(rationales))).rows
    return [{**row, "rationale": text} for row, text in zip(rows, rationales, strict=True)]


def test_traces_are_scrubbed_before_they_are_rows_and_off_changes_nothing():
    rows = questions("Ask mia@example.org: 2+2 = 4.", "2+3 = 5.")
    assert recorded_traces(rows).rows[0]["reasoning"].startswith("Ask mia@")
    scrubbed = recorded_traces(rows, ALL)
    assert scrubbed.rows[0]["reasoning"] == "Ask (EMAIL REMOVED): 2+2 = 4."
    assert scrubbed.rows[1] == recorded_traces(rows).rows[1]
    assert removed(scrubbed.rows) == {"email": 1}


def test_a_row_whose_answer_is_personal_data_goes_and_keys_still_add_up():
    [plain, secret] = questions("x", "y")
    outcomes = recorded_traces([plain, {**secret, "answer": "mia@example.org"}])
    scrubbed = scrub_traces(outcomes, ALL)
    assert [reject.reason for reject in scrubbed.rejects] == ["pii_in_answer"]
    assert "mia" not in str(scrubbed.rejects)
    assert (scrubbed.keys_in, scrubbed.keys_out, len(scrubbed.rows)) == (2, 1, 1)


def test_rejected_rows_are_scrubbed_and_keep_their_ids():
    reject = Reject(
        "q1", "failed", "timeout", "mia@example.org timed out", {"id": "q1", "question": "mia@example.org?"}
    )
    [found] = scrub_traces(Outcomes([], [reject], 1, 0), ALL).rejects
    assert (found.key, found.row["id"], found.detail) == ("q1", "q1", "(EMAIL REMOVED) timed out")
    assert found.row["question"] == "(EMAIL REMOVED)?"


def test_search_results_are_scrubbed_and_the_calculator_is_not():
    [trace] = recorded_traces(questions("x")).rows
    card = "4111111111111111"
    segments = [
        Segment(
            "call", call=ToolCall("Search", {"query": "mail of mia@example.org"}), result=ToolResult("mia@example.org")
        ),
        Segment("call", call=ToolCall("Calculator", {"expression": card}), result=ToolResult(card)),
        Segment("text", text="x"),
    ]
    row = {**trace, "segments": [segment.to_row() for segment in segments], "n_calls": 2}
    [scrubbed] = scrub_segments(Outcomes([row], [], 1, 1), ALL).rows
    search, calculator, _ = map(Segment.from_row, scrubbed["segments"])
    assert search.call.arguments == {"query": "mail of (EMAIL REMOVED)"} and search.result.text == "(EMAIL REMOVED)"
    assert calculator.call.arguments == {"expression": card} and calculator.result.text == card
    assert removed([scrubbed]) == {"email": 2}
    assert scrub_segments(Outcomes([row], [], 1, 1), ScrubConfig()).rows == [row]
