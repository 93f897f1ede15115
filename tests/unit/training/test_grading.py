"""Rollouts through the grader: one that breaks it has a typed failure, a model is asked how close answers are."""

from __future__ import annotations

import json

import pytest
from tiny_bert import save_bert

from agentflow.errors import GraderFailed
from agentflow.models.similarity import load_similarity
from agentflow.models.sources import LocalModel
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.rendering import PromptConfig
from agentflow.rewards.contract import GOLD_CALLS
from agentflow.stages.grpo import GraderConfig, GrpoConfig
from agentflow.tools.calculator import Calculator
from agentflow.toolset import syntax_for
from agentflow.training.grading import RolloutGrader, failure_counts, reward_facts, stop_if_failing

ENDLESS = "<tool_call>" * 300_000
# Every opening is looked for its end in the whole rest of the text: hours.


def question(answer: str = "Red Sea", aliases: tuple[str, ...] = (), calls: tuple[dict, ...] = ()) -> dict:
    meta = json.dumps({GOLD_CALLS: calls})
    return {"id": "q", "answer": answer, "aliases": list(aliases), "answer_type": "text", "meta": meta}


def rollout(text: str, *results: str) -> Rollout:
    return Rollout([1], [2], [1], [0.0], text, results=tuple(ToolResult(result) for result in results))


def answering(answer: str) -> Rollout:
    return rollout(f"<think>It is that.</think><answer>{answer}</answer>")


def grade(config: GrpoConfig, rollouts: list[Rollout], questions: list[dict]) -> list:
    config = config.model_copy(update={"prompt": PromptConfig(syntax="json")})
    with RolloutGrader(config, [Calculator().schema]) as grader:
        return grader.grade(rollouts, questions)


def test_a_rollout_that_breaks_the_grader_fails_alone_and_by_name():
    config = GrpoConfig(grader=GraderConfig(timeout_s=5.0))
    good, bad, other = grade(config, [answering("Red Sea"), rollout(ENDLESS), answering("Ida")], [question()] * 3)
    assert good.parts["accuracy"] == 2.0 and good.rollout.failure is None and good.answer == "Red Sea"
    assert (bad.rollout.failure, bad.parts, bad.answer) == ("grader_timeout", None, None)
    assert other.parts["accuracy"] == 1.0


def test_a_similarity_model_is_asked_for_answers_alone_and_the_best_alias_counts(tmp_path):
    source = LocalModel(path=save_bert(tmp_path, outputs=1))
    reward = {"answer_similarity": "cross_encoder"}
    config = GrpoConfig(reward=reward, similarity_model=source, generation={"calls": "end"}, grader={"timeout_s": 20})
    call = syntax_for("json").call_text
    book = {"name": "book", "arguments": {"day": "Monday"}}
    questions = [question("Red Sea", ("Ida Venn", "Sea")), question("Red Sea"), question("", calls=(book,))]
    calling = rollout(f"<think>so</think>{call(ToolCall('book', {'day': 'Monday'}))}")
    answered, silent, called = grade(config, [answering("Sea"), rollout("nothing"), calling], questions)
    similarity = load_similarity("cross_encoder", source)
    best = max(similarity([(gold, "Sea") for gold in ("Red Sea", "Ida Venn", "Sea")]))
    assert answered.parts["accuracy"] == pytest.approx(1 + best)
    assert silent.parts["accuracy"] == -2.0 and called.parts["accuracy"] == 2.0
    facts = reward_facts(config)
    assert facts["similarity"] == "cross_encoder" and facts["similarity_model"]["path"] == str(tmp_path)


def test_mtr_judges_by_what_the_tools_said_and_by_their_schemas():
    call = '<tool_call>{"name": "Calculator", "arguments": {"expression": "6*7"}}</tool_call>'
    text = f"<think>Six by seven:{call}<tool_response>42</tool_response> so it is 42.</think><answer>42</answer>"
    config = GrpoConfig(reward={"kind": "mtr"}, grader={"timeout_s": 20})
    real, forged, unknown = grade(
        config,
        [rollout(text, "42"), rollout(text), rollout(text.replace("Calculator", "Oracle"), "42")],
        [question("42")] * 3,
    )
    assert real.parts == {"accuracy": 1.0, "consistency": 1.0, "format": 1.0}
    assert set(forged.parts.values()) == {0.0}, "no tool ran: the model wrote the result itself"
    assert unknown.parts["consistency"] == pytest.approx(3 / 4)


def test_failures_of_the_grader_have_a_rate_of_their_own_over_what_was_graded():
    rows = [{"failure": name} for name in (None, None, "grader_timeout", "connection")]
    assert failure_counts(rows) == {"grader_failures": 1, "grader_failure_rate": pytest.approx(1 / 3)}
    assert failure_counts([{"failure": "connection"}]) == {"grader_failures": 0, "grader_failure_rate": 0.0}


@pytest.mark.parametrize(
    "failed, asked, stops", [(0, 8, False), (1, 8, False), (2, 8, True), (10, 1000, False), (11, 1000, True)]
)
def test_the_stage_stops_above_one_in_a_hundred_but_not_for_one_of_the_first(failed, asked, stops):
    if stops:
        with pytest.raises(GraderFailed, match=f"{failed} of {asked} rollouts could not be graded"):
            stop_if_failing(failed, asked, GraderConfig())
    else:
        stop_if_failing(failed, asked, GraderConfig())
        assert not stops
    if failed == 1:
        with pytest.raises(GraderFailed):
            stop_if_failing(failed, asked, GraderConfig(), judged_from=0)
