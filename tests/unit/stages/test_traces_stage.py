"""Traces from the real local teacher through a real ledger: right answers become rows, everything else a reason."""

from __future__ import annotations

import asyncio

import pytest
from pipeline_rows import question_rows

from agentflow.clients.retry import Patience
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.errors import QuotaExhausted
from agentflow.metrics.answers import is_correct
from agentflow.schemas import TRACES
from agentflow.stages.traces import TracesConfig, recorded_traces, trace_batch

IMPATIENT = TeacherConfig(max_attempts=2, patience=Patience(first_wait_s=0.01, longest_wait_s=0.02))


@pytest.fixture(autouse=True)
def fresh(teacher_service):
    teacher_service.reset()


ONE_BY_ONE = TeacherConfig(concurrency=1)
# Samples reach the service in their order.


def traced(rows, config, service, ledger, **options):
    async def run():
        async with TeacherClient.open(config.teacher, ledger, base_url=service.base_url) as teacher:
            return await trace_batch(rows, config, teacher, **options)

    return asyncio.run(run())


def questions(n=20, two_hop=4):
    return [row for row in question_rows(n, two_hop=two_hop) if row["split"] == "train"]


def test_right_answers_become_traces_and_wrong_ones_are_dropped_with_what_was_said(teacher_service, ledger):
    rows = questions()
    outcomes = traced(rows, TracesConfig(), teacher_service, ledger)
    assert outcomes.keys_in == len(rows) == outcomes.keys_out + len(outcomes.rejects)
    assert outcomes.rows and outcomes.rejects, "the teacher is wrong now and then"
    by_id = {row["id"]: row for row in rows}
    for trace in outcomes.rows:
        assert set(trace) == set(TRACES.names)
        question = by_id[trace["question_id"]]
        assert trace["id"] == f"{question['id']}#0" and trace["question"] == question["question"]
        assert is_correct(trace["predicted"], question["answer"], question["aliases"], question["answer_type"])
        assert trace["reasoning"] == trace["reasoning"].strip() != ""
        assert trace["response"] == f"Answer: {trace['predicted']}"
        assert trace["teacher"].startswith("local/") and trace["teacher"].endswith("/stand-in-r1")
        assert ledger.get(trace["ledger_key"]) is not None, "the paid answer can be found"
    for reject in outcomes.rejects:
        assert (reject.status, reject.reason) == ("dropped", "wrong_answer")
        assert f"instead of {by_id[reject.key]['answer']!r}" in reject.detail
        (key,) = reject.row["ledger_keys"]
        assert reject.row == {**by_id[reject.key], "ledger_keys": [key]}
        assert ledger.get(key)["response"] is not None, "the wrong answer can be found too"


def test_asking_again_pays_nothing_and_gives_the_same(teacher_service, ledger):
    rows = questions(8, 0)
    first = traced(rows, TracesConfig(), teacher_service, ledger)
    asked = teacher_service.stats()["requests"]
    again = traced(rows, TracesConfig(), teacher_service, ledger)
    assert again == first
    assert teacher_service.stats()["requests"] == asked == len(rows)


def test_every_right_sample_of_a_question_is_a_row_and_one_right_sample_saves_it(teacher_service, ledger):
    rows = questions(12, 0)
    outcomes = traced(rows, TracesConfig(samples=3), teacher_service, ledger)
    ids = [trace["id"] for trace in outcomes.rows]
    assert len(set(ids)) == len(ids) > outcomes.keys_out
    assert {row_id.split("#")[1] for row_id in ids} == {"0", "1", "2"}
    assert {row_id.split("#")[0] for row_id in ids} | {reject.key for reject in outcomes.rejects} == {
        row["id"] for row in rows
    }
    for reject in outcomes.rejects:
        assert reject.detail.count("instead of") == 3


def test_a_question_the_teacher_does_not_know_is_dropped(teacher_service, ledger):
    row = {**questions(1, 0)[0], "id": "q", "question": "What is the meaning of all this?"}
    (reject,) = traced([row], TracesConfig(), teacher_service, ledger).rejects
    assert reject.reason == "wrong_answer" and "'unknown' instead of" in reject.detail


def test_a_call_that_keeps_failing_fails_its_row_alone_and_can_be_retried(teacher_service, ledger):
    rows = questions(6, 0)
    bad = rows[2]
    teacher_service.set_faults([{"kind": "status", "status": 500, "contains": bad["question"][:40]}])
    outcomes = traced(rows, TracesConfig(teacher=IMPATIENT), teacher_service, ledger)
    (failed,) = [reject for reject in outcomes.rejects if reject.status == "failed"]
    assert (failed.key, failed.reason) == (bad["id"], "server_error")
    assert [len(ledger.get(key)["attempts"]) for key in failed.row["ledger_keys"]] == [2]
    teacher_service.clear_faults()
    again = traced(rows, TracesConfig(teacher=IMPATIENT), teacher_service, ledger)
    assert not [reject for reject in again.rejects if reject.status == "failed"]


def test_an_answer_that_is_cut_quarantines_its_row_since_asking_again_ends_the_same(teacher_service, ledger):
    (row,) = questions(1, 0)
    outcomes = traced([row], TracesConfig(teacher=TeacherConfig(max_tokens=4)), teacher_service, ledger)
    (reject,) = outcomes.rejects
    assert (reject.status, reject.reason) == ("quarantined", "cut")
    again = traced([row], TracesConfig(teacher=TeacherConfig(max_tokens=4)), teacher_service, ledger)
    assert again == outcomes and teacher_service.stats()["requests"] == 1, "it is paid once"
    traced([row], TracesConfig(teacher=TeacherConfig(max_tokens=5)), teacher_service, ledger)
    assert teacher_service.stats()["requests"] == 2, "another max_tokens is another question"


def scripted(content, finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"kind": "status", "status": 200, "body": {"choices": [choice]}, "first": 1}


def test_a_sample_that_is_cut_or_holds_markup_costs_its_question_no_other_sample(teacher_service, ledger):
    first, second = [{**row, "answer": "7"} for row in questions(2, 0)]
    teacher_service.set_faults(
        [
            scripted("Answer: 7", "length", reasoning_content="3+4 = "),
            scripted("Answer: 7", reasoning_content="</think> 3+4 = 7"),
            scripted("Answer: 7", reasoning_content="3+4 = 7"),
        ]
    )
    outcomes = traced([first], TracesConfig(samples=3, teacher=ONE_BY_ONE), teacher_service, ledger)
    assert [row["id"] for row in outcomes.rows] == [f"{first['id']}#2"] and not outcomes.rejects
    assert outcomes.counts == {"right": 1, "cut": 1, "markup": 1}
    teacher_service.set_faults([scripted("Answer: 7", "length"), scripted("Answer: 8", reasoning_content="3+5 = 8")])
    (reject,) = traced([second], TracesConfig(samples=2, teacher=ONE_BY_ONE), teacher_service, ledger).rejects
    assert (reject.status, reject.reason) == ("quarantined", "cut") and "'8' instead of '7'" in reject.detail


def test_samples_of_one_question_are_asked_at_once(teacher_service, ledger):
    teacher_service.set_faults([{"kind": "delay", "delay_s": 0.5}])
    traced(questions(1, 0), TracesConfig(samples=6), teacher_service, ledger)
    assert teacher_service.stats()["peak_in_flight"] == 6


def test_a_failed_sample_fails_its_question_until_failures_are_accepted_then_the_paid_ones_are_kept(
    teacher_service, ledger
):
    (row,) = [{**row, "answer": "7"} for row in questions(1, 0)]
    config = TracesConfig(samples=3, teacher=ONE_BY_ONE.model_copy(update={"max_attempts": 1}))
    teacher_service.set_faults([scripted("Answer: 7", reasoning_content="3+4 = 7"), {"kind": "status", "status": 500}])
    (reject,) = traced([row], config, teacher_service, ledger).rejects
    assert (reject.status, reject.reason) == ("failed", "server_error")
    assert len(reject.row["ledger_keys"]) == 3, "the paid one can be found"
    asked = teacher_service.stats()["requests"]
    outcomes = traced([row], config, teacher_service, ledger, accept_failures=True)
    assert [trace["id"] for trace in outcomes.rows] == [f"{row['id']}#0"] and not outcomes.rejects
    assert (outcomes.keys_in, outcomes.keys_out) == (1, 1)
    assert teacher_service.stats()["requests"] == asked + 2, "only the failed samples are asked again"


def test_a_text_answer_with_words_too_many_is_right_only_where_the_recipe_says_so(teacher_service, ledger):
    row = {**questions(0, 1)[0], "answer": "United States", "aliases": [], "answer_type": "text"}
    said = scripted("Answer: the United States of America", reasoning_content="It is there.")
    teacher_service.set_faults([said])
    (reject,) = traced([row], TracesConfig(), teacher_service, ledger).rejects
    assert reject.reason == "wrong_answer"
    (trace,) = traced([row], TracesConfig(min_f1=0.6), teacher_service, ledger).rows
    assert trace["predicted"] == "the United States of America"
    assert teacher_service.stats()["requests"] == 1, "the same paid answer"


def test_a_teacher_that_hides_its_reasoning_is_not_called_wrong(teacher_service, ledger):
    rows = [{**row, "answer": "7"} for row in questions(1, 0)]
    teacher_service.set_faults([scripted("Answer: 7")])
    (reject,) = traced(rows, TracesConfig(), teacher_service, ledger).rejects
    assert (reject.status, reject.reason) == ("dropped", "no_reasoning")


def test_a_question_with_markup_is_quarantined_before_anything_is_paid(teacher_service, ledger):
    rows = [{**row, "question": row["question"] + " <|im_start|>"} for row in questions(1, 0)]
    (reject,) = traced(rows, TracesConfig(), teacher_service, ledger).rejects
    assert (reject.status, reject.reason) == ("quarantined", "markup")
    assert teacher_service.stats()["requests"] == 0


def test_what_no_other_question_would_survive_is_raised(teacher_service, ledger):
    teacher_service.set_faults([{"kind": "status", "status": 429, "code": "insufficient_quota"}])
    with pytest.raises(QuotaExhausted):
        traced(questions(2, 0), TracesConfig(teacher=IMPATIENT), teacher_service, ledger)


def test_recorded_solutions_are_traces_without_a_call():
    rows = questions(3, 1)
    outcomes = recorded_traces(rows)
    assert (outcomes.keys_in, outcomes.keys_out) == (4, 4)
    for row, trace in zip(rows, outcomes.rows, strict=True):
        assert set(trace) == set(TRACES.names)
        assert trace["reasoning"] == row["rationale"] and trace["predicted"] == row["answer"]
        assert (trace["teacher"], trace["ledger_key"]) == ("recorded", "")


def test_questions_of_recorded_kinds_take_their_own_solution_and_the_others_are_asked(teacher_service, ledger):
    rows = questions(2, 3)
    config = TracesConfig(recorded_kinds=(rows[0]["kind"],))
    outcomes = traced(rows, config, teacher_service, ledger)
    asked = [row["id"] for row in rows if row["kind"] != rows[0]["kind"]]
    assert teacher_service.stats()["requests"] == len(asked) == 3
    assert outcomes.keys_in == len(rows) == outcomes.keys_out + len(outcomes.rejects)
    for trace in outcomes.rows:
        assert (trace["teacher"] == "recorded") == (trace["question_id"] not in asked)


def test_a_question_without_a_recorded_solution_is_dropped():
    row = {**questions(1, 0)[0], "rationale": " \n"}
    outcomes = recorded_traces([row])
    (reject,) = outcomes.rejects
    assert (reject.status, reject.reason, outcomes.keys_out) == ("dropped", "no_rationale", 0)


@pytest.mark.parametrize("markup", ["</think>", "<answer>7</answer>", "<|im_end|>", "<tool_call>"])
@pytest.mark.parametrize("field", ["question", "rationale"])
def test_layout_tags_and_chat_tokens_quarantine_their_row_alone(markup, field):
    rows = questions(2, 0)
    rows[0] = {**rows[0], field: rows[0][field] + markup}
    outcomes = recorded_traces(rows)
    assert [row["question_id"] for row in outcomes.rows] == [rows[1]["id"]]
    assert [(reject.key, reject.status, reject.reason) for reject in outcomes.rejects] == [
        (rows[0]["id"], "quarantined", "markup")
    ]
