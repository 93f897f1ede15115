"""Calls put into real traces, with the real calculator, the local teacher marking lookups and the local search."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from pipeline_rows import question_rows

from agentflow.clients.retry import Patience
from agentflow.clients.search import SearchClient, SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.insertion.splice import plain_text
from agentflow.records import Segment, ToolCall
from agentflow.rendering import PromptConfig, completion_spans, parse_completion
from agentflow.schemas import TOOL_TRACES
from agentflow.services.server import LocalService
from agentflow.stages.tool_insertion import ToolInsertionConfig, insert_batch, insertion_counts, wants_lookups
from agentflow.stages.traces import recorded_traces
from agentflow.tools.web_search import WebSearchConfig
from agentflow.toolset import ToolsConfig, make_toolbox, syntax_for

IMPATIENT = SearchConfig(max_attempts=2, patience=Patience(first_wait_s=0.01, longest_wait_s=0.02))


@pytest.fixture(autouse=True)
def fresh(teacher_service, search_service):
    teacher_service.reset()
    search_service.reset()


@pytest.fixture
def insert(teacher_service, search_service, ledger):
    def run(rows, config, candidates=None, search=None):
        search_url = (search or search_service).base_url

        async def inserted():
            async with AsyncExitStack() as stack:
                teacher = await stack.enter_async_context(
                    TeacherClient.open(config.teacher, ledger, base_url=teacher_service.base_url)
                )
                client = await stack.enter_async_context(SearchClient.open(config.search, ledger, base_url=search_url))
                toolbox = make_toolbox(config.tools, client.search)
                return await insert_batch(rows, config, teacher, toolbox, candidates)

        return asyncio.run(inserted())

    return run


def traces(n=0, two_hop=0):
    return recorded_traces([row for row in question_rows(n, two_hop=two_hop) if row["split"] == "train"]).rows


def segments_of(row):
    return [Segment.from_row(segment) for segment in row["segments"]]


def calls_of(row):
    return [segment for segment in segments_of(row) if segment.kind == "call"]


def check(row, trace):
    assert set(row) == set(TOOL_TRACES.names)
    assert plain_text(segments_of(row)) == trace["reasoning"], "removing the calls gives the reasoning back"
    assert row["n_calls"] == len(calls_of(row))


@pytest.mark.parametrize("name", ["compact", "json"])
def test_every_equation_gets_its_calculation_right_before_its_result(insert, name):
    rows = traces(12)
    outcomes = insert(rows, ToolInsertionConfig(prompt=PromptConfig(syntax=name)))
    assert outcomes.keys_out == len(rows) and outcomes.rejects == []
    for trace, row in zip(rows, outcomes.rows, strict=True):
        check(row, trace)
        segments = segments_of(row)
        assert row["n_calls"] >= 1
        for before, call, after in zip(segments, segments[1:], segments[2:], strict=False):
            if call.kind == "call":
                assert before.text.endswith("=")
                assert after.text.lstrip().startswith(call.result.text), "the result is what the text says next"
        written = "".join(span.text for span in completion_spans(segments, row["answer"], syntax_for(name)))
        assert len(parse_completion(written, syntax_for(name)).calls) == row["n_calls"]


def test_lookups_are_marked_by_the_teacher_and_really_searched(insert, ledger, teacher_service, search_service):
    rows = traces(two_hop=4)
    outcomes = insert(rows, ToolInsertionConfig())
    assert outcomes.rejects == []
    found = 0
    for trace, row in zip(rows, outcomes.rows, strict=True):
        check(row, trace)
        searches = calls_of(row)
        assert searches and all(segment.call.tool == "Search" for segment in searches)
        for segment in searches:
            assert segment.result.as_of is not None
            assert ledger.get(segment.result.ledger_key) is not None
        found += row["answer"] in " ".join(segment.result.text for segment in searches)
    assert found == len(rows), "the encyclopedia knows the answers"
    assert teacher_service.stats()["requests"] == len(rows)
    assert search_service.stats()["requests"] == sum(row["n_calls"] for row in outcomes.rows)


def test_numbers_are_not_looked_up_unless_asked_for(insert, teacher_service):
    (row,) = traces(1)
    assert not wants_lookups(row, ToolInsertionConfig())
    assert wants_lookups(row, ToolInsertionConfig(lookups="all"))
    assert not wants_lookups({**row, "answer_type": "text"}, ToolInsertionConfig(lookups="none"))
    no_search = ToolInsertionConfig(lookups="all", tools=ToolsConfig(names=("Calculator",)))
    assert not wants_lookups(row, no_search)
    insert([row], ToolInsertionConfig())
    assert teacher_service.stats()["requests"] == 0


def test_a_trace_that_the_calculator_contradicts_is_dropped_and_says_where(insert):
    (row,) = traces(1)
    wrong = {**row, "reasoning": "First 48/2 = 24 clips. In all 48+24 = 71 clips."}
    (reject,) = insert([wrong], ToolInsertionConfig()).rejects
    assert (reject.status, reject.reason, reject.detail) == ("dropped", "contradicted", "48+24 is not 71")


def test_a_contradicted_trace_may_stay_but_gets_no_call_at_the_wrong_place(insert):
    (row,) = traces(1)
    wrong = {**row, "reasoning": "First 48/2 = 24 clips. In all 48+24 = 71 clips."}
    (kept,) = insert([wrong], ToolInsertionConfig(contradicted="keep")).rows
    assert [segment.call.arguments for segment in calls_of(kept)] == [{"expression": "48/2"}]


def test_what_is_wrong_in_a_kept_trace_is_recorded(insert):
    (row,) = traces(1)
    wrong = {**row, "reasoning": "First 48/2 = 25 clips. In all 48+25 = 73 clips."}
    (kept,) = insert([wrong], ToolInsertionConfig(contradicted="keep")).rows
    (found,) = kept["contradictions"]
    assert (found["expression"], found["stated"], found["computed"]) == ("48/2", "25", "24")
    assert (found["action"], found["later_uses"]) == ("kept", 1)


def test_a_corrected_trace_gets_its_call_and_says_what_was_changed_and_what_was_not(insert):
    (row,) = traces(1)
    wrong = {**row, "reasoning": "First 48/2 = 25 clips. In all 48+25 = 73 clips."}
    outcomes = insert([wrong], ToolInsertionConfig(contradicted="correct"))
    (kept,) = outcomes.rows
    check(kept, {**wrong, "reasoning": "First 48/2 = 24 clips. In all 48+25 = 73 clips."})
    assert [segment.call.arguments["expression"] for segment in calls_of(kept)] == ["48/2", "48+25"]
    counts = insertion_counts(outcomes)
    assert counts["contradictions"] == {"corrected": 1} and counts["later_uses_of_corrected_numbers"] == 1


def test_sampled_calls_are_run_where_no_other_call_stands(insert):
    (row,) = traces(1)
    text = "First 48/2 = 24 clips. So it is a lot."
    at, end = text.index("=") + 1, len(text)
    own, other = ToolCall("Calculator", {"expression": "1+1"}), ToolCall("Calculator", {"expression": "2*2"})
    (kept,) = insert(
        [{**row, "reasoning": text}], ToolInsertionConfig(), {row["id"]: [(at, [own]), (end, [other])]}
    ).rows
    assert [segment.call.arguments["expression"] for segment in calls_of(kept)] == ["48/2", "2*2"]
    assert calls_of(kept)[1].result.text == "4" and kept["segments"][-1]["kind"] == "call"


def test_sampled_calls_stay_at_their_places_when_a_number_before_them_is_corrected(insert):
    (row,) = traces(1)
    text = "First 40*5 = 20 clips. Then | 3*3 = 10 and | done."
    calls = [ToolCall("Calculator", {"expression": f"{number}+1"}) for number in range(3)]
    inside, first, second = text.index("0 clips"), text.index("|"), text.rindex("|")
    candidates = {row["id"]: [(inside, [calls[0]]), (first, [calls[1]]), (second, [calls[2]])]}
    (kept,) = insert([{**row, "reasoning": text}], ToolInsertionConfig(contradicted="correct"), candidates).rows
    assert kept["reasoning"] == "First 40*5 = 200 clips. Then | 3*3 = 9 and | done."
    texts = [segment["text"] for segment in kept["segments"] if segment["kind"] == "text"]
    assert texts == ["First 40*5 =", " 200 clips. Then ", "| 3*3 =", " 9 and ", "| done."]
    assert len(kept["contradictions"]) == 2


def test_a_search_that_finds_question_and_answer_is_counted_in_row_and_manifest(insert, search_service, tmp_path):
    (row,) = traces(two_hop=1)
    leak = {"id": "leak", "title": "quiz", "text": f"{row['question']} {row['answer']}"}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps(leak) + "\n")
    with LocalService("search", corpus=corpus) as leaky:
        outcomes = insert([row], ToolInsertionConfig(), search=leaky)
        tools = ToolsConfig(web_search=WebSearchConfig(leaks="drop"))
        clean = insert([row], ToolInsertionConfig(tools=tools), search=leaky)
    (shown,), (dropped,) = outcomes.rows, clean.rows
    assert insertion_counts(outcomes)["search_results"]["leaks"] == sum(s["leaks"] or 0 for s in shown["segments"]) > 0
    assert insertion_counts(clean)["search_results"] == insertion_counts(outcomes)["search_results"]
    assert row["question"] in calls_of(shown)[0].result.text
    assert {segment.result.text for segment in calls_of(dropped)} == {"no results"}


def test_reasoning_without_anything_to_call_stays_as_it_is(insert):
    (row,) = traces(1)
    (kept,) = insert([{**row, "reasoning": "It is plain to see."}], ToolInsertionConfig()).rows
    assert kept["n_calls"] == 0 and [s["text"] for s in kept["segments"]] == ["It is plain to see."]


def test_no_more_than_max_calls_are_inserted_the_first_ones(insert):
    (row,) = traces(1)
    long = {**row, "reasoning": " ".join(f"{i}+1 = {i + 1}." for i in range(6))}
    (kept,) = insert([long], ToolInsertionConfig(max_calls=2)).rows
    assert [segment.call.arguments["expression"] for segment in calls_of(kept)] == ["0+1", "1+1"]


@pytest.mark.parametrize(
    "name, written",
    [
        ("compact", "[Calculator(1+1) -> 3]"),
        ("compact", "[Search(Mira) ->"),
        ("compact", "[Search(Mira), then"),
        ("json", '<tool_call>{"name": "Calculator", "arguments": {"expression": "1+1"}}</tool_call>'),
        ("json", "<tool_call>{"),
    ],
)
def test_a_call_in_the_teachers_own_text_quarantines_its_row_before_anything_is_paid(
    insert, teacher_service, search_service, name, written
):
    rows = traces(two_hop=2)
    bad = {**rows[0], "reasoning": f"First. So it is {written} and Mira works there."}
    outcomes = insert([bad, rows[1]], ToolInsertionConfig(prompt=PromptConfig(syntax=name)))
    assert [(one.key, one.status, one.reason) for one in outcomes.rejects] == [(bad["id"], "quarantined", "markup")]
    assert [row["id"] for row in outcomes.rows] == [rows[1]["id"]]
    assert teacher_service.stats()["requests"] == 1, "only the other row's lookups"


def test_brackets_that_are_no_call_do_no_harm(insert):
    (row,) = traces(1)
    text = "See [1] and Calculator(1+1) -> 2, or [note (1) -> 2]."
    (kept,) = insert([{**row, "reasoning": text}], ToolInsertionConfig()).rows
    check(kept, {**row, "reasoning": text})


def lookups(*queries, sentence=0):
    return said(json.dumps({"lookups": [{"sentence": sentence, "query": query} for query in queries]}))


def test_what_is_planned_and_not_inserted_is_counted_by_reason(insert, teacher_service):
    (row,) = traces(two_hop=1)
    long = {**row, "reasoning": " ".join(f"{i}+1 = {i + 1}." for i in range(6))}
    items = [{"sentence": 1, "query": "Mira"}, {"sentence": "1", "query": "Tal"}, {"sentence": 99, "query": "Ost"}]
    body = said(json.dumps({"lookups": [*items, {"sentence": 2, "query": "a <think> b"}]}))
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": body}])
    outcomes = insert([long], ToolInsertionConfig(max_calls=3))
    (kept,) = outcomes.rows
    assert [segment.call.tool for segment in calls_of(kept)] == ["Calculator", "Search", "Calculator"]
    assert insertion_counts(outcomes)["left_out"] == {
        "Calculator": {"max_calls": 4}, "Search": {"lookup_sentence": 2, "unwritable": 1},
    }  # fmt: skip


def test_calls_the_tool_refuses_are_counted(insert, teacher_service):
    (row,) = traces(two_hop=1)
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": lookups("a long query", "Ost")}])
    tools = ToolsConfig(web_search=WebSearchConfig(max_query_chars=5))
    outcomes = insert([row], ToolInsertionConfig(tools=tools))
    assert [segment.call.arguments["query"] for segment in calls_of(outcomes.rows[0])] == ["Ost"]
    assert insertion_counts(outcomes)["left_out"] == {"Search": {"refused": 1}}


def test_a_rejected_row_leaves_nothing_out(insert, teacher_service, search_service):
    (row,) = traces(two_hop=1)
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": lookups("a <think> b", "Ost")}])
    search_service.set_faults([{"kind": "status", "status": 400}])
    outcomes = insert([row], ToolInsertionConfig(search=IMPATIENT))
    assert len(outcomes.rejects) == 1 and insertion_counts(outcomes)["left_out"] == {}


def test_a_query_is_searched_for_as_it_is_written(insert, teacher_service, ledger):
    (row,) = traces(two_hop=1)
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": lookups("films [2004] -> cast")}])
    for name, query in (("compact", "films 2004 cast"), ("json", "films [2004] -> cast")):
        (kept,) = insert([row], ToolInsertionConfig(prompt=PromptConfig(syntax=name))).rows
        (call,) = calls_of(kept)
        asked = ledger.get(call.result.ledger_key)["request"]["query"]
        assert (call.call.arguments["query"], asked) == (query, query)


def test_without_a_calculator_equations_get_no_calls(insert):
    rows = traces(2)
    outcomes = insert(rows, ToolInsertionConfig(tools=ToolsConfig(names=("Search",))))
    assert [row["n_calls"] for row in outcomes.rows] == [0, 0]


def test_a_search_that_keeps_failing_fails_its_row_alone(insert, search_service, ledger):
    search_service.set_faults([{"kind": "status", "status": 500}])
    rows = traces(2, 1)
    outcomes = insert(rows, ToolInsertionConfig(search=IMPATIENT))
    (reject,) = outcomes.rejects
    assert (reject.status, reject.reason) == ("failed", "server_error")
    assert reject.row["answer_type"] == "text" and outcomes.keys_out == 2
    lines = reject.detail.splitlines()
    assert len(lines) == len({entry["sha256"] for entry in search_service.history()}) > 1, "a line per failed query"
    assert all(line.startswith('Search {"query":"') and "500" in line for line in lines)
    tried = [ledger.get(key)["attempts"] for key in reject.row["ledger_keys"]]
    assert [len(attempts) for attempts in tried] == [2] * len(lines), "every failed search can be found"


def test_a_search_that_the_service_refuses_for_ever_quarantines_its_row(insert, search_service):
    search_service.set_faults([{"kind": "status", "status": 400, "first": 1}])
    (row,) = traces(two_hop=1)
    (reject,) = insert([row], ToolInsertionConfig(search=IMPATIENT)).rejects
    assert (reject.status, reject.reason) == ("quarantined", "rejected") and "400" in reject.detail
    search_service.set_faults([{"kind": "status", "status": 400, "first": 1}, {"kind": "status", "status": 500}])
    (other,) = [one for one in traces(two_hop=2) if one["id"] != row["id"]]
    (reject,) = insert([other], ToolInsertionConfig(search=IMPATIENT)).rejects
    assert (reject.status, reject.reason) == ("failed", "server_error"), "what can be asked again is asked again first"


def said(content):
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}


def test_lookups_that_are_never_read_quarantine_their_row_with_every_paid_answer(insert, teacher_service, ledger):
    rows = traces(two_hop=2)
    answer = said("I would look up Mira.")
    contains = rows[0]["question"][:40]
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": answer, "contains": contains}])
    for _ in range(2):
        outcomes = insert(rows, ToolInsertionConfig(lookup_attempts=2))
        (reject,) = outcomes.rejects
        assert (reject.key, reject.status, reject.reason) == (rows[0]["id"], "quarantined", "malformed_lookups")
        assert "I would look up Mira." in reject.detail
        keys = reject.row["ledger_keys"]
        assert len(set(keys)) == 2 and [ledger.get(key)["response"] for key in keys] == [answer] * 2
        assert [row["id"] for row in outcomes.rows] == [rows[1]["id"]]
        assert teacher_service.stats()["requests"] == 3, "each paid once"


def test_lookups_that_cannot_be_read_are_asked_for_again_and_both_answers_are_kept(insert, teacher_service, ledger):
    (row,) = traces(two_hop=1)
    teacher_service.set_faults([{"kind": "status", "status": 200, "body": said("Let me see."), "first": 1}])
    for _ in range(2):
        (kept,) = insert([row], ToolInsertionConfig()).rows
        check(kept, row)
        assert kept["n_calls"] > 0 and "lookups" in json.dumps(ledger.get(kept["lookups_key"])["response"])
        assert teacher_service.stats()["requests"] == 2
    assert ledger.usage("run")["teacher"] == {"paid": 2, "replayed": 2, "failed": 0, "lost": 0}


def test_lookups_that_are_cut_quarantine_their_row_and_are_paid_once(insert, teacher_service, ledger):
    rows = traces(two_hop=2)
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": '{"lookups": ['}}
    rule = {"kind": "status", "status": 200, "body": {"choices": [choice]}, "contains": rows[0]["question"][:40]}
    teacher_service.set_faults([rule])
    for _ in range(2):
        outcomes = insert(rows, ToolInsertionConfig())
        (reject,) = outcomes.rejects
        assert (reject.key, reject.status, reject.reason) == (rows[0]["id"], "quarantined", "cut")
        assert ledger.get(reject.row["lookups_key"])["response"] == {"choices": [choice]}
        assert teacher_service.stats()["requests"] == len(rows)
    assert ledger.usage("run")["teacher"] == {"paid": 2, "replayed": 2, "failed": 0, "lost": 0}


def test_no_more_rows_are_at_work_at_once_than_keep_the_slots_busy():
    """However large a batch is, its rows that wait hold no task, as those of traces."""
    (row,) = traces(1)
    rows = [{**row, "id": f"{row['question_id']}#{number}"} for number in range(500)]
    tools = ToolsConfig(names=("Calculator",))
    config = ToolInsertionConfig(
        tools=tools, lookups="none", teacher=TeacherConfig(concurrency=2), search=SearchConfig(concurrency=4)
    )

    async def most_tasks():
        work = asyncio.ensure_future(insert_batch(rows, config, None, make_toolbox(tools, None)))
        most = 0
        while not work.done():
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0)
        return most, await work

    most, outcomes = asyncio.run(most_tasks())
    calls = outcomes.rows[0]["n_calls"]
    assert outcomes.keys_out == 500 and [one["id"] for one in outcomes.rows] == [one["id"] for one in rows]
    assert most <= 2 + (4 + 2 * 4) * (1 + calls), "this test, the batch, and for each row its calls"
