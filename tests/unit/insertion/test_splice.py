"""Splicing never changes a character of the reasoning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.insertion.splice import Insertion, plain_text, splice, without_calls
from agentflow.records import Segment, ToolCall, ToolResult

CALL, RESULT = ToolCall("Calculator", {"expression": "48/2"}), ToolResult("24")


@st.composite
def placed(draw):
    text = draw(st.text())
    offsets = draw(st.lists(st.integers(0, len(text)), max_size=6))
    return text, [Insertion(at, ToolCall("T", {"n": n}), ToolResult(str(n))) for n, at in enumerate(offsets)]


@given(placed())
def test_the_text_segments_are_the_reasoning_byte_for_byte(case):
    text, insertions = case
    segments = splice(text, insertions)
    assert plain_text(segments) == text
    assert sum(segment.kind == "call" for segment in segments) == len(insertions)
    assert all(segment.text for segment in segments if segment.kind == "text"), "no empty text segments"
    assert plain_text(without_calls(segments)) == text


@given(placed())
def test_every_call_stands_at_its_offset(case):
    text, insertions = case
    segments = splice(text, insertions)
    found = {s.call.arguments["n"]: len(plain_text(segments[:i])) for i, s in enumerate(segments) if s.call}
    assert found == {n: insertion.at for n, insertion in enumerate(insertions)}


@given(placed())
def test_calls_at_one_place_keep_their_order(case):
    text, insertions = case
    calls = [s.call.arguments["n"] for s in splice(text, insertions) if s.call]
    assert calls == sorted(calls, key=lambda n: insertions[n].at)


def test_a_call_is_put_between_the_pieces_of_text():
    segments = splice("48/2 = 24 clips", [Insertion(6, CALL, RESULT)])
    assert segments == [
        Segment("text", "48/2 ="),
        Segment("call", "", CALL, RESULT),
        Segment("text", " 24 clips"),
    ]
    assert without_calls(segments) == [Segment("text", "48/2 = 24 clips")]


def test_nothing_to_splice_gives_nothing_more():
    assert splice("", []) == [] and plain_text([]) == "" and without_calls([]) == []
    assert splice("abc", []) == [Segment("text", "abc")]


@pytest.mark.parametrize("at", [-1, 4])
def test_an_offset_outside_the_text_is_refused(at):
    with pytest.raises(ValueError, match=f"insertion at {at} is outside the reasoning; allowed: 0 to 3"):
        splice("abc", [Insertion(at, CALL, RESULT)])
