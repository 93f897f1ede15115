"""The killable grading process: what hangs, dies or raises costs one completion and says so."""

from __future__ import annotations

import json

import pytest

from agentflow.errors import GraderFailed
from agentflow.rewards.grading import GraderSetup
from agentflow.rewards.process import Grader

GOOD = "<think>In all 72.</think><answer>72</answer>"
ENDLESS = "<tool_call>" * 300_000
# Every opening is looked for its end in the whole rest of the text: hours.
ROW = {"id": "q", "answer": "72", "aliases": [], "answer_type": "number", "meta": "{}"}


def setup_for(**reward):
    return GraderSetup(reward={"kind": "composite", **reward}, syntax="json", primary={"Calculator": "expression"})


def request(text: str, **changes):
    return {"text": text, "observations": [], "question": ROW, "similarity": None, **changes}


@pytest.fixture(scope="module")
def grader():
    with Grader(setup_for(), timeout_s=20.0) as one:
        yield one


def test_it_gives_the_parts_and_the_answer(grader):
    verdict = grader.ask(request(GOOD))
    assert verdict.parts == {"accuracy": 2.0, "format": 1.0, "length": 0.0}
    assert (verdict.answer, verdict.failure) == ("72", None)
    assert grader.ask({"text": GOOD, "observations": []}).answer == "72", "without a question it only reads"


def test_an_exception_is_a_typed_failure_and_the_next_completion_is_graded(grader):
    verdict = grader.ask(request(GOOD, question={**ROW, "meta": '{"gold_calls": 3}'}))
    assert (verdict.failure, verdict.parts) == ("grader_error", None) and "gold_calls" in verdict.detail
    assert grader.ask(request(GOOD)).failure is None


def test_a_process_that_ended_between_two_completions_is_replaced_and_no_completion_blamed(grader):
    assert grader._process is not None
    grader._process.kill()
    grader._process.wait()
    assert grader.ask(request(GOOD)).failure is None


def test_a_completion_on_which_grading_never_ends_is_given_up_at_the_deadline():
    with Grader(setup_for(), timeout_s=5.0) as grader:
        verdict = grader.ask(request(ENDLESS))
        assert (verdict.failure, verdict.parts, verdict.answer) == ("grader_timeout", None, None)
        assert grader.ask(request(GOOD)).parts is not None, "another process goes on"
        last = grader._process
    assert last is not None and last.returncode is not None, "and none is left behind"


DYING = "import json\ninput()\nprint(json.dumps({'ready': True}), flush=True)\ninput()\n"


def test_a_completion_that_kills_the_process_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Grader(setup_for(), 20.0, program="dying") as grader:
        assert [grader.ask(request(GOOD)).failure for _ in range(2)] == ["grader_died"] * 2


def test_a_process_that_cannot_start_stops_the_training_instead_of_failing_every_rollout(tmp_path, monkeypatch):
    (tmp_path / "absent.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(GraderFailed, match="did not start"), Grader(setup_for(), 20.0, program="absent"):
        pass


def test_what_crosses_the_border_is_plain_json():
    setup = setup_for(penalty=3)
    assert GraderSetup.model_validate(json.loads(setup.model_dump_json())) == setup
