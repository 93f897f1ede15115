"""One poisonous answer among good ones, over real HTTP: its row ends alone and with a reason, or passes as the plain
text it is; the batch commits, and asking again pays nothing.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_rows import question_rows

from agentflow.artifacts.store import Store
from agentflow.clients.retry import Patience
from agentflow.clients.search import SearchClient, SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.records import Outcomes
from agentflow.schemas import TOOL_TRACES, TRACES
from agentflow.stages.tool_insertion import ToolInsertionConfig, insert_batch
from agentflow.stages.traces import TracesConfig, recorded_traces, trace_batch
from agentflow.toolset import ToolsConfig, make_toolbox

UNSTORABLE = ["cut in half \ud83d", "the other half \ude00", "\ud800"]
TEXT = [
    "nothing \x00 here", "\u202e24\u202c", "\u001b[31mred\u001b[0m", "=cmd()|' /C calc'!A0", "9" * 5000,
    "<script>alert(1)</script> ![](https://elsewhere.example/x.png)", "../../etc/passwd", "[" * 10_000, "NaN", "\uffff",
]  # fmt: skip
NO_JSON_FOR_US = ['{"n": ' + "9" * 5000 + "}", "[" * 100_000, '{"choices": NaN}', '{"usage": 1e999, "choices": 2}']


@pytest.fixture(autouse=True)
def fresh(teacher_service, search_service):
    teacher_service.reset()
    search_service.reset()


def questions(n: int, two_hop: int = 0) -> list[dict[str, Any]]:
    return [row for row in question_rows(n, two_hop=two_hop) if row["split"] == "train"]


QUESTION = questions(1)[0]


def said(content: str, **message: str) -> str:
    """The body of a chat completion, in ASCII, as services that escape everything write it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})


def answered(body: str, contains: str) -> list[dict[str, Any]]:
    return [{"kind": "status", "status": 200, "body": body, "contains": contains[:40]}]


def traced(rows, service, ledger, config=None) -> Outcomes:
    config = config or TracesConfig(teacher=TeacherConfig(max_attempts=1))

    async def run() -> Outcomes:
        async with TeacherClient.open(config.teacher, ledger, base_url=service.base_url) as teacher:
            return await trace_batch(rows, config, teacher)

    return asyncio.run(run())


def committed(outcomes: Outcomes, schema: Any, folder: Any) -> Outcomes:
    """What is read back of the batch after its commit."""
    return Store.open(folder).commit_batch("stage", "0" * 16, "batch", outcomes, schema).outcomes()


@pytest.mark.parametrize("poison", UNSTORABLE)
def test_a_trace_that_no_file_can_carry_is_quarantined_alone_and_its_batch_commits(
    poison, teacher_service, ledger, tmp_path
):
    rows = questions(8)
    bad = rows[3]
    teacher_service.set_faults(answered(said(f"Answer: {bad['answer']}", reasoning_content=poison), bad["question"]))
    outcomes = committed(traced(rows, teacher_service, ledger), TRACES, tmp_path / "store")
    (reject,) = [reject for reject in outcomes.rejects if reject.status != "dropped"]
    assert (reject.key, reject.status, reject.reason) == (bad["id"], "quarantined", "unstorable")
    assert "surrogate" in reject.detail and outcomes.keys_in == outcomes.keys_out + len(outcomes.rejects) == 8
    asked = teacher_service.stats()["requests"]
    assert traced(rows, teacher_service, ledger).keys_out == outcomes.keys_out
    assert teacher_service.stats()["requests"] == asked


@pytest.mark.parametrize("place", ["reasoning", "content", "think"])
def test_bad_text_is_found_wherever_it_stands_and_costs_its_question_no_other_sample(
    place, teacher_service, ledger, tmp_path
):
    (row,) = questions(1)
    gold, poison = f"Answer: {row['answer']}", "half \ud83d"
    bodies = {
        "reasoning": said(gold, reasoning_content=poison),
        "content": said(f"{poison}\n{gold}", reasoning_content="so"),
        "think": said(f"<think>{poison}</think>{gold}"),
    }
    rule = answered(bodies[place], row["question"])[0] | {"first": 1}
    good = answered(said(gold, reasoning_content="so it is"), row["question"])[0]
    teacher_service.set_faults([rule, good])
    outcomes = traced([row], teacher_service, ledger, TracesConfig(samples=2))
    assert [trace["id"] for trace in committed(outcomes, TRACES, tmp_path / "store").rows] == [f"{row['id']}#1"]


@pytest.mark.parametrize("poison", TEXT)
def test_text_that_only_looks_dangerous_passes_as_it_is_through_both_stages(
    poison, teacher_service, search_service, ledger, tmp_path
):
    (row,) = questions(1)
    reasoning = f"So 2+2 = 4 and {poison} ."
    teacher_service.set_faults(answered(said(f"Answer: {row['answer']}", reasoning_content=reasoning), row["question"]))
    traces = committed(traced([row], teacher_service, ledger), TRACES, tmp_path / "traces").rows
    assert [trace["reasoning"] for trace in traces] == [reasoning]
    (kept,) = committed(inserted(traces, teacher_service, search_service, ledger), TOOL_TRACES, tmp_path / "tools").rows
    assert kept["n_calls"] == 1 and "".join(part["text"] for part in kept["segments"]) == reasoning


@pytest.mark.parametrize("body", NO_JSON_FOR_US)
def test_a_body_that_is_no_usable_json_fails_its_row_alone(body, teacher_service, ledger):
    rows = questions(3)
    teacher_service.set_faults(answered(body, rows[0]["question"]))
    rejects = traced(rows, teacher_service, ledger).rejects
    assert [(one.key, one.reason) for one in rejects if one.status == "failed"] == [(rows[0]["id"], "malformed")]


# ---------------------------------------------------------------- tool insertion
def inserted(rows, teacher_service, search_service, ledger) -> Outcomes:
    patience = Patience(first_wait_s=0.0, longest_wait_s=0.01)
    config = ToolInsertionConfig(search=SearchConfig(max_attempts=1, patience=patience))

    async def run() -> Outcomes:
        async with AsyncExitStack() as stack:
            teacher = await stack.enter_async_context(
                TeacherClient.open(config.teacher, ledger, base_url=teacher_service.base_url)
            )
            client = await stack.enter_async_context(
                SearchClient.open(config.search, ledger, base_url=search_service.base_url)
            )
            return await insert_batch(rows, config, teacher, make_toolbox(config.tools, client.search))

    return asyncio.run(run())


def two_hop_traces(n: int) -> list[dict[str, Any]]:
    return list(recorded_traces(questions(0, n)).rows)


@pytest.mark.parametrize("lookups", ['{"lookups": [{"sentence": ' + "9" * 5000 + ', "query": "x"}]}', "[" * 10_000])
def test_lookups_that_cannot_be_read_quarantine_their_row_alone(
    lookups, teacher_service, search_service, ledger, tmp_path
):
    rows = two_hop_traces(2)
    teacher_service.set_faults(answered(said(lookups), rows[0]["question"]))
    outcomes = committed(inserted(rows, teacher_service, search_service, ledger), TOOL_TRACES, tmp_path / "store")
    assert [(one.key, one.status, one.reason) for one in outcomes.rejects] == [
        (rows[0]["id"], "quarantined", "malformed_lookups")
    ]
    assert [row["id"] for row in outcomes.rows] == [rows[1]["id"]]


@pytest.mark.parametrize("bad", ['{"sentence": 0, "query": "half \ud83d"}', r'{"sentence": 0, "query": "half \ud83d"}'])
def test_a_lookup_with_bad_text_costs_itself_alone(bad, teacher_service, search_service, ledger, tmp_path):
    (row,) = two_hop_traces(1)
    lookups = f'{{"lookups": [{bad}, {{"sentence": 0, "query": "a town"}}]}}'
    teacher_service.set_faults(answered(said(lookups), row["question"]))
    (kept,) = committed(inserted([row], teacher_service, search_service, ledger), TOOL_TRACES, tmp_path / "store").rows
    assert [one["arguments"] for one in kept["segments"] if one["kind"] == "call"] == ['{"query":"a town"}']


@pytest.mark.parametrize("poison", [*UNSTORABLE, *TEXT])
def test_bad_text_of_a_search_stands_in_a_row_only_in_its_harmless_form(
    poison, teacher_service, search_service, ledger, tmp_path
):
    (row,) = two_hop_traces(1)
    hit = {"title": poison, "url": f"https://example.org/{poison}", "content": f"{poison} town", "score": 0.5}
    search_service.set_faults([{"kind": "status", "status": 200, "body": json.dumps({"results": [hit]})}])
    (kept,) = committed(inserted([row], teacher_service, search_service, ledger), TOOL_TRACES, tmp_path / "store").rows
    results = [part["result"] for part in kept["segments"] if part["kind"] == "call"]
    assert results and not any(char in result for result in results for char in "\ud83d\ude00\ud800\x00\u202e\x1b<>[]")


@pytest.mark.parametrize("score", ["1" + "0" * 400, "1e999", "NaN", '"\\ud83d"', "true"])
def test_a_score_that_is_no_number_fails_its_row_and_stops_nothing(score, teacher_service, search_service, ledger):
    rows = [*two_hop_traces(1), *recorded_traces(questions(1)).rows]
    body = '{"results": [{"title": "a", "url": "https://a.example", "content": "b", "score": ' + score + "}]}"
    search_service.set_faults([{"kind": "status", "status": 200, "body": body}])
    outcomes = inserted(rows, teacher_service, search_service, ledger)
    assert [(one.key, one.status, one.reason) for one in outcomes.rejects] == [(rows[0]["id"], "failed", "malformed")]
    assert [row["id"] for row in outcomes.rows] == [rows[1]["id"]]


def test_a_row_that_no_file_can_carry_is_quarantined_alone_by_the_insertion_too(
    teacher_service, search_service, ledger, tmp_path
):
    good, bad = recorded_traces(questions(2)).rows
    bad = {**bad, "reasoning": "half \ud83d and 2+2 = 4."}
    outcomes = committed(inserted([good, bad], teacher_service, search_service, ledger), TOOL_TRACES, tmp_path / "s")
    assert [(one.key, one.reason) for one in outcomes.rejects] == [(bad["id"], "unstorable")]
    assert [row["id"] for row in outcomes.rows] == [good["id"]]


# ---------------------------------------------------------------- reasoning of any text
PIECES = [
    *"0123456789+-*/=%$,.()^x½\n ", "2+2 = 5", "48/2 = 24", " = ", "**", "\\frac{1}{0}", "\\frac12", "3 1/0", "1/0",
    " of ", "9" * 51, "9" * 400, "1e99", "1e-99", "(241/240)**2000", "10^50", " plus ", "\\boxed{", "\\text{", "}",
    "<<1+1=2>>", "25%", " clips", "0.", "-", "\ud83d", "]", "[Calculator(",
]  # fmt: skip
CALCULATOR = ToolsConfig(names=("Calculator",))


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.sampled_from(["drop", "correct", "keep"]))
@settings(max_examples=400, deadline=None)
def test_no_reasoning_can_break_the_insertion(reasoning, contradicted):
    row = {**recorded_traces([QUESTION]).rows[0], "reasoning": reasoning}
    config = ToolInsertionConfig(tools=CALCULATOR, lookups="none", contradicted=contradicted)
    outcomes = asyncio.run(insert_batch([row], config, None, make_toolbox(CALCULATOR, None)))
    assert outcomes.keys_in == outcomes.keys_out + len(outcomes.rejects) == 1
    assert not [one for one in outcomes.rejects if one.status == "failed"], "no service was asked"


@pytest.mark.parametrize("more", ["\\frac{1}{0}", "3 1/0", "9" * 60, "(241/240)**2000 = 7"])
@pytest.mark.parametrize("contradicted", ["drop", "correct", "keep"])
def test_one_trace_with_a_number_out_of_bounds_stops_no_other(more, contradicted):
    good, bad = recorded_traces(questions(2)).rows
    bad = {**bad, "reasoning": f"2+2 = 5, and later {more} or 5."}
    config = ToolInsertionConfig(tools=CALCULATOR, lookups="none", contradicted=contradicted)
    outcomes = asyncio.run(insert_batch([good, bad], config, None, make_toolbox(CALCULATOR, None)))
    assert good["id"] in {row["id"] for row in outcomes.rows}
    assert [one.reason for one in outcomes.rejects] == (["contradicted"] if contradicted == "drop" else [])
