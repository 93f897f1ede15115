"""Every reward, whichever is chosen: total, finite and within its declared range for any text; chosen by name."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentflow.errors import InputError
from agentflow.rewards.choice import RewardChoice, score
from agentflow.rewards.contract import GOLD_CALLS, gold_of, read_attempt
from agentflow.rewards.grading import GraderSetup, grade, out_of_range
from agentflow.syntax import Syntax
from agentflow.tools.calculator import Calculator

PRIMARY = {"Calculator": "expression", "Search": "query"}
REWARDS = TypeAdapter(RewardChoice)
CHOICES = [
    {"kind": "composite"},
    {"kind": "composite", "accuracy_form": "3s", "penalty": 3, "answer_similarity": "em", "normalise_arguments": True},
    {"kind": "composite", "answer_similarity": "cross_encoder", "call_form": "2s", "penalty": 0},
    {"kind": "toolrl", "format_weight": 0.5},
    {"kind": "binary"},
    {"kind": "mtr", "min_calls": 0},
    {"kind": "mtr", "form": "recall", "min_calls": 0},
]
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "<observation>", "</observation>",
    "<tool_response>", "</tool_response>", " [Calculator(48/2) -> 24]", "[Search(who) ->", "[Calculator(",
    '{"name": "Calculator", "arguments": {"expression": "1+1"}}', '{"name": "f", "arguments": {"x": [NaN, 1e999]}}',
    '{"name": "f"}', "The answer is 72.", "word " * 20, "9" * 5000, "<|im_end|>", "\ud800", "\x00", "\n", "1/0",
    "\\frac{1}{0}", "-5,000%",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=16).map("".join)
arguments = st.dictionaries(st.text(max_size=2), st.none() | st.integers() | st.text(max_size=3), max_size=2)
calls = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["Calculator", "f", ""]), "arguments": arguments}), max_size=3
)


def question(answer="72", answer_type="number", gold_calls=()):
    meta = json.dumps({GOLD_CALLS: list(gold_calls)})
    return {"id": "q", "answer": answer, "aliases": ["NYC"], "answer_type": answer_type, "meta": meta}


@given(
    text=texts,
    choice=st.sampled_from(CHOICES),
    syntax=st.sampled_from(["compact", "json"]),
    turn=st.booleans(),
    observations=st.none() | st.lists(st.text(max_size=5), max_size=3),
    row=st.builds(question, st.text(max_size=10), st.sampled_from(["number", "text"]), calls),
    similarity=st.floats(0, 1),
)
@example(
    text="<think>a [Calculator(48/2) -> 24] b</think><answer>24</answer>",
    choice={"kind": "mtr"},
    syntax="compact",
    turn=False,
    observations=["24"],
    row=question("24"),
    similarity=0.5,
)
def test_a_reward_is_total_finite_and_within_its_range(text, choice, syntax, turn, observations, row, similarity):
    config = REWARDS.validate_python(choice)
    attempt = read_attempt(text, Syntax(syntax, PRIMARY), turn=turn, observations=observations)
    result = score(config, attempt, gold_of(row), similarity, [Calculator().schema])
    assert out_of_range(config, result.parts) is None
    assert list(result.parts) == [part.name for part in config.parts()]
    assert math.isfinite(result.total)
    assert result.total == sum(part.weight * result.parts[part.name] for part in config.parts())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_reward_says_which_of_its_parts_stand_for_accuracy_and_format(choice):
    config = REWARDS.validate_python(choice)
    names = [part.name for part in config.parts()]
    assert config.accuracy_part in names and (config.format_part is None or config.format_part in names)
    assert REWARDS.validate_json(config.model_dump_json()) == config


def test_an_unknown_reward_or_weight_is_refused_with_what_is_allowed():
    with pytest.raises(ValidationError, match="'composite', 'toolrl', 'binary', 'mtr'"):
        REWARDS.validate_python({"kind": "style"})
    for wrong in (
        {"weights": [1, 2]},
        {"correct_weight": [1, 2]},
        {"correct_weight": -1},
        {"correct_weight": math.nan},
    ):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            REWARDS.validate_python({"kind": "binary", **wrong})


def test_a_part_that_is_missing_not_finite_or_out_of_range_is_no_score():
    config = REWARDS.validate_python({"kind": "toolrl"})
    assert out_of_range(config, {"format": 1.0, "correct": 3.0}) is None
    assert "instead of ['correct', 'format']" in out_of_range(config, {"format": 1.0})
    assert out_of_range(config, {"format": 1.0, "correct": 3.1}) == "part 'correct' is 3.1, allowed -3 to 3"
    assert "is nan" in out_of_range(config, {"format": math.nan, "correct": 0.0})


def test_a_similarity_that_is_no_number_becomes_no_reward():
    setup = GraderSetup(reward={"kind": "composite", "answer_similarity": "bi_encoder"}, syntax="json", primary=PRIMARY)
    request = {"text": "<think>x</think><answer>7</answer>", "observations": [], "question": question()}
    assert grade(setup, {**request, "similarity": 0.5})["parts"]["accuracy"] == 1.5
    assert grade(setup, {**request, "similarity": math.nan})["failure"] == "grader_value"


@pytest.mark.parametrize(
    "given",
    [[{"name": "f"}], [{"name": 1, "arguments": {}}], [{"name": "f", "arguments": []}], ["f"], {"name": "f"}, 3],
)
def test_gold_calls_of_another_shape_are_refused_by_the_questions_id(given):
    with pytest.raises(InputError, match="question 'q': gold_calls .* cannot be read"):
        gold_of({**question(), "meta": json.dumps({GOLD_CALLS: given})})


def test_a_question_without_gold_calls_asks_for_its_answer():
    for meta in ("", "{}", '{"facts": []}', '{"gold_calls": []}', '{"gold_calls": null}'):
        assert gold_of({**question(), "meta": meta}).calls == ()


@pytest.mark.parametrize("said, accuracy", [("", -2.0), ("72", 2.0), ("72 or 73", 1.0)])
def test_no_answer_is_rewarded_for_what_a_tool_said_inside_it(said, accuracy):
    setup = GraderSetup(reward=REWARDS.validate_python({"kind": "composite"}), syntax="compact", primary=PRIMARY)
    text = f"<think>{'word ' * 20}</think><answer>[Search(how many clips) -> 72]{said}</answer>"
    verdict = grade(setup, {"text": text, "observations": ["72"], "question": question(), "similarity": None})
    assert (verdict["answer"] or "") == said and verdict["parts"]["accuracy"] == accuracy
