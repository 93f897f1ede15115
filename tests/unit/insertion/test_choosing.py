"""Which planned calls are run: what the syntax can write, paid ones first, and no call is left out uncounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.insertion.choosing import LeftOut, choose, without_taken, written
from agentflow.insertion.strategy import PlannedCall
from agentflow.records import ToolCall
from agentflow.toolset import syntax_for

COMPACT, JSON = syntax_for("compact"), syntax_for("json")


def search(query: str) -> ToolCall:
    return ToolCall("Search", {"query": query})


def calculator(expression: str) -> ToolCall:
    return ToolCall("Calculator", {"expression": expression})


@pytest.mark.parametrize(
    "query, as_written",
    [
        ("Film (2004) -> cast", "Film (2004) cast"),
        ("list of films [2004]", "list of films 2004"),
        ("[[Leland]]\n->born", "Leland born"),
        ("Leland (North Carolina)", "Leland (North Carolina)"),
    ],
)
def test_a_query_that_compact_cannot_hold_is_written_otherwise(query: str, as_written: str) -> None:
    assert written(search(query), COMPACT) == search(as_written)
    assert written(search(query), JSON) == search(query), "JSON can hold it as it is"


@pytest.mark.parametrize("call", [search("[->]"), search("a <think> b"), calculator("[1+1]"), search("<|im_end|>")])
def test_what_cannot_be_written_at_all_is_left_out_and_counted(call: ToolCall) -> None:
    left_out = LeftOut()
    assert choose([PlannedCall(0, call)], COMPACT, 8, left_out) == []
    assert left_out == {(call.tool, "unwritable"): 1}


def test_paid_lookups_stay_where_free_calls_would_crowd_them_out() -> None:
    free = [PlannedCall(at, calculator(f"{at}+1")) for at in range(0, 60, 10)]
    paid = [PlannedCall(at, search(f"city {at}"), paid=True) for at in (45, 55)]
    left_out = LeftOut()
    chosen = choose([*free, *paid], COMPACT, 4, left_out)
    assert [(one.at, one.paid) for one in chosen] == [(0, False), (10, False), (45, True), (55, True)]
    assert left_out == {("Calculator", "max_calls"): 4}


def test_a_call_at_a_place_that_is_taken_is_counted() -> None:
    left_out = LeftOut()
    later = [PlannedCall(3, search("q")), PlannedCall(4, search("r"))]
    assert without_taken(later, [PlannedCall(3, calculator("1+1"))], left_out) == later[1:]
    assert left_out == {("Search", "place_taken"): 1}


CALLS = st.builds(search, st.text(alphabet="ab ()[]->\n", max_size=8)) | st.builds(calculator, st.sampled_from("12"))


@given(st.lists(st.builds(PlannedCall, st.integers(0, 9), CALLS, st.booleans()), max_size=12), st.integers(1, 5))
def test_every_planned_call_is_chosen_or_counted_and_can_be_found_again(planned: list[PlannedCall], most: int) -> None:
    left_out = LeftOut()
    chosen = choose(planned, COMPACT, most, left_out)
    assert len(chosen) <= most and len(chosen) + left_out.total() == len(planned)
    assert [one.at for one in chosen] == sorted(one.at for one in chosen)
    assert all(COMPACT.pending_call(COMPACT.call_text(one.call)) == one.call for one in chosen)
