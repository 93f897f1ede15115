"""Whatever a strategy plans, taking the calls out again gives back the reasoning byte for byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.errors import CutAnswer, MalformedAnswer, ServiceFailure
from agentflow.insertion.contradictions import undo
from agentflow.insertion.splice import Insertion, plain_text, splice
from agentflow.insertion.strategies import Equations, Sampled, TeacherLookups
from agentflow.insertion.strategy import Plan, Strategy
from agentflow.records import Reject, ToolCall, ToolResult

TEXTS = st.text(max_size=80) | st.text(alphabet="0123456789+-*/=()%$,. xof½\n", max_size=80)


def row(reasoning: str, answer_type: str = "text") -> dict[str, Any]:
    return {"id": "toy#0", "question": "Where?", "reasoning": reasoning, "answer_type": answer_type}


def planned(strategy: Strategy, reasoning: str) -> Plan | Reject:
    return asyncio.run(strategy.plan(row(reasoning)))


def calculator(expression: str) -> ToolCall:
    return ToolCall("Calculator", {"expression": expression})


@dataclass
class Answer:
    content: str
    ledger_key: str = "paid"


class Teacher:
    """Says one thing after the other, and the last for ever; an error is raised."""

    def __init__(self, *contents: str | ServiceFailure) -> None:
        self.contents = contents
        self.samples: list[int] = []

    async def complete(self, messages: Any, *, sample_index: int = 0, response_format: Any = None) -> Answer:
        self.samples.append(sample_index)
        content = self.contents[min(len(self.samples), len(self.contents)) - 1]
        if isinstance(content, ServiceFailure):
            content.ledger_key = f"paid {sample_index}"
            raise content
        return Answer(content, f"paid {sample_index}")


def check(plan: Plan, reasoning: str) -> None:
    """The law of splicing, for a plan made for `reasoning`."""
    now = reasoning if plan.reasoning is None else plan.reasoning
    segments = splice(now, [Insertion(one.at, one.call, ToolResult("x")) for one in plan.calls])
    assert plain_text(segments) == now
    assert sum(segment.kind == "call" for segment in segments) == len(plan.calls)
    assert undo(now, plan.contradictions) == reasoning


@given(TEXTS, st.sampled_from(["drop", "correct", "keep"]))
def test_equations_leave_the_text_as_it_was_or_say_what_they_changed(text: str, contradicted: Any) -> None:
    plan = planned(Equations(contradicted), text)
    if isinstance(plan, Reject):
        assert contradicted != "keep" and (plan.status, plan.reason) == ("dropped", "contradicted")
        return
    assert plan.reasoning is None or contradicted == "correct"
    check(plan, text)


@given(TEXTS.filter(str.strip), st.lists(st.tuples(st.integers(0, 4), st.text(min_size=1, max_size=20)), max_size=4))
def test_lookups_leave_the_text_as_it_was(text: str, lookups: list[tuple[int, str]]) -> None:
    content = json.dumps({"lookups": [{"sentence": sentence, "query": query} for sentence, query in lookups]})
    plan = planned(TeacherLookups(Teacher(content), "all", 8, 3), text)
    assert isinstance(plan, Plan)
    check(plan, text)


GOOD = '{"lookups": [{"sentence": 0, "query": "Mira Tal"}]}'


def test_lookups_that_cannot_be_read_are_asked_for_again_as_another_sample() -> None:
    teacher = Teacher("I would look up Mira.", '{"lookups": "none"}', GOOD)
    plan = planned(TeacherLookups(teacher, "all", 8, 3), "Mira works.")
    assert isinstance(plan, Plan) and [one.call.arguments for one in plan.calls] == [{"query": "Mira Tal"}]
    assert plan.ledger_key == "paid 2" and teacher.samples == [0, 1, 2]


def test_a_row_whose_lookups_are_never_read_names_every_answer_paid_for() -> None:
    teacher = Teacher("First this.", CutAnswer("cut"), "Then that.", GOOD)
    reject = planned(TeacherLookups(teacher, "all", 8, 3), "Mira works.")
    assert isinstance(reject, Reject) and (reject.status, reject.reason) == ("quarantined", "malformed_lookups")
    assert reject.row["ledger_keys"] == ["paid 0", "paid 1", "paid 2"] and teacher.samples == [0, 1, 2]
    assert [part in reject.detail for part in ("First this.", "cut", "Then that.")] == [True] * 3


@pytest.mark.parametrize("failure", [CutAnswer("cut"), MalformedAnswer("no body")])
def test_what_the_client_itself_gives_up_is_not_asked_for_again_here(failure: ServiceFailure) -> None:
    teacher = Teacher(failure, GOOD)
    with pytest.raises(type(failure)):
        planned(TeacherLookups(teacher, "all", 8, 3), "Mira works.")
    assert teacher.samples == [0]


def test_items_that_do_not_fit_are_counted_and_cost_no_second_answer() -> None:
    teacher = Teacher('{"lookups": [{"sentence": 0, "query": "Mira Tal"}, {"sentence": 9, "query": "Ost"}]}')
    plan = planned(TeacherLookups(teacher, "all", 8, 3), "Mira works.")
    assert isinstance(plan, Plan) and len(plan.calls) == 1
    assert plan.left_out == {("Search", "lookup_sentence"): 1} and teacher.samples == [0]


@settings(max_examples=50)
@given(TEXTS, st.data())
def test_sampled_calls_leave_the_text_as_it_was(text: str, data: st.DataObject) -> None:
    offsets = data.draw(st.lists(st.integers(0, len(text)), max_size=5, unique=True))
    candidates = {"toy#0": [(at, [calculator("1/0"), calculator(f"{i}+1")]) for i, at in enumerate(offsets)]}
    strategy = Sampled(candidates)
    assert strategy.wants(row(text)) == bool(offsets)
    if offsets:
        plan = planned(strategy, text)
        assert isinstance(plan, Plan) and len(plan.calls) == len(offsets)
        check(plan, text)


def test_a_sampled_place_takes_its_most_frequent_call_that_can_be_computed_and_no_call_twice() -> None:
    candidates = {
        "toy#0": [
            (3, [calculator("half of 4"), calculator("4/2")]),
            (1, [calculator("4/2")]),
            (2, [calculator("what is it")]),
            (0, [ToolCall("Search", {"query": "four"})]),
        ]
    }
    plan = planned(Sampled(candidates), "abcdef")
    assert isinstance(plan, Plan)
    assert [(one.at, one.call.arguments) for one in plan.calls] == [(3, {"expression": "4/2"}), (0, {"query": "four"})]


def test_a_corrected_trace_gets_a_call_at_the_corrected_place() -> None:
    plan = planned(Equations("correct"), "So 5*3 = 16 and 1+1 = 2.")
    assert isinstance(plan, Plan)
    assert plan.reasoning == "So 5*3 = 15 and 1+1 = 2."
    assert [one.call.arguments["expression"] for one in plan.calls] == ["5*3", "1+1"]


@pytest.mark.parametrize("text", ["1/0 = 3", "1/0 = 3 and 5*3 = 16"])
def test_what_cannot_be_corrected_is_dropped_and_says_everything_that_is_wrong(text: str) -> None:
    reject = planned(Equations("correct"), text)
    assert isinstance(reject, Reject) and reject.detail.splitlines()[0] == "1/0 is not 3"


def test_lookups_are_for_text_answers_unless_asked_for_all() -> None:
    some, every = TeacherLookups(Teacher(""), "text_answers", 8, 3), TeacherLookups(Teacher(""), "all", 8, 3)
    assert some.wants(row("x")) and every.wants(row("x", "number")) and not some.wants(row("x", "number"))
