"""MTR's composite reward of a trace, ReCall's alternative, and the grammar both judge by."""

import pytest

from agentflow.rewards.contract import Gold, read_attempt
from agentflow.rewards.mtr import MtrConfig, agrees, mtr, supported, valid_calls
from agentflow.rewards.trace import read_trace
from agentflow.syntax import Syntax
from agentflow.tools.calculator import Calculator

COMPACT, JSON = (Syntax(name, {"Calculator": "expression"}) for name in ("compact", "json"))
SCHEMAS = [Calculator().schema]
GOLD = Gold("72", (), "number")
INLINE = "<think>In May 48/2 = [Calculator(48/2) -> 24] 24, so 48+24 = [Calculator(48+24) -> 72] 72 in all.</think>"
ANSWER = "<answer>72</answer>"
CALL = '<tool_call>{"name": "Calculator", "arguments": {"expression": "48+24"}}</tool_call>'
BLOCKS = f"<think>Add both months.</think>{CALL}<observation>72</observation><think>It is 72.</think>{ANSWER}"


def reward(text, syntax=COMPACT, gold=GOLD, observations=None, **config):
    return mtr(read_attempt(text, syntax, observations=observations), gold, MtrConfig(**config), SCHEMAS)


def test_a_right_consistent_trace_gets_one_and_a_half():
    for text, syntax in ((INLINE + ANSWER, COMPACT), (BLOCKS, JSON)):
        result = reward(text, syntax)
        assert result.parts == {"accuracy": 1.0, "consistency": 1.0, "format": 1.0}
        assert result.total == pytest.approx(1.0 + 0.3 + 0.2)


@pytest.mark.parametrize(
    "text",
    [
        "<think>It is 72.</think>" + ANSWER,  # no call
        INLINE,  # no answer
        INLINE.replace("In May 48/2 = ", "") + ANSWER,  # a call without a thought before it
        INLINE.replace(" 72 in all.", "") + ANSWER,  # no last thought
        "so " + INLINE + ANSWER,
        INLINE.replace(" -> 72]", " ->") + ANSWER,  # a call without its observation
        "<think>Six." + " a [Calculator(1+1) -> 2]" * 6 + " so</think>" + ANSWER,
        "",
    ],
)
def test_a_broken_grammar_gets_nothing_whatever_the_answer(text):
    assert reward(text).total == 0.0 and set(reward(text).parts.values()) == {0.0}


def test_bounds_of_the_number_of_calls_can_be_set():
    assert reward("<think>It is 72.</think>" + ANSWER, min_calls=0).parts["format"] == 1.0
    assert reward(INLINE + ANSWER, max_calls=1).parts["format"] == 0.0


def test_an_observation_that_the_model_wrote_itself_is_none():
    assert reward(INLINE + ANSWER, observations=["24", "72"]).parts["format"] == 1.0
    assert reward(INLINE + ANSWER, observations=["24"]).total == 0.0
    forged = reward(INLINE + ANSWER, observations=["24", "error: too long"]).parts["consistency"]
    assert forged == pytest.approx((1 + 0 + 1 + 1) / 4), "support is looked for in what the tool really said"


def test_recall_gives_f1_or_a_tenth_for_a_wrong_answer_in_form():
    assert reward(INLINE + ANSWER, form="recall").total == 1.0
    assert reward(INLINE + "<answer>71</answer>", form="recall").total == pytest.approx(0.1)
    assert reward("<think>no</think>" + ANSWER, form="recall").total == 0.0
    half = reward(BLOCKS.replace(ANSWER, "<answer>New York</answer>"), JSON, Gold("New York City"), form="recall")
    assert half.total == pytest.approx(0.8)


def test_accuracy_is_the_better_of_em_and_f1_over_aliases():
    nyc = BLOCKS.replace(ANSWER, "<answer>NYC</answer>")
    assert reward(nyc, JSON, Gold("New York City", ("NYC",))).parts["accuracy"] == 1.0
    assert reward(nyc, JSON, Gold("New York City")).parts["accuracy"] == 0.0


# ---------------------------------------------------------------- the parts of C
def test_calls_are_valid_against_their_tools_schema():
    (one,) = read_trace(BLOCKS, JSON).calls
    (unknown,) = read_trace(BLOCKS.replace("Calculator", "Oracle"), JSON).calls
    (wrong,) = read_trace(BLOCKS.replace('"48+24"', "[48]"), JSON).calls
    assert valid_calls([one], SCHEMAS) == 1.0
    assert valid_calls([one, unknown, wrong, wrong], SCHEMAS) == 0.25
    assert valid_calls([one], []) == 0.0


def test_an_answer_is_supported_by_its_words_in_one_observation():
    seen = ["Paris is the capital of France.", "Berlin lies in Germany."]
    assert supported("Paris, France", seen) == 1.0
    assert supported("Paris and Berlin", seen) == 0.5, "no observation holds both"
    assert supported("Rome", seen) == 0.0 == supported("Rome", [])
    assert supported("Yes", seen) is None


def test_a_call_that_stands_twice_is_inconsistent():
    twice = INLINE.replace("Calculator(48/2) -> 24", "Calculator(48+24) -> 72")
    assert reward(twice + ANSWER).parts["consistency"] == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    "thought, answer, consistent",
    [
        ("so 48+24 = 72 in all.", "72", True),
        ("so it must be 71.", "72", False),
        ("so that is it.", "72", True),
        ("It comes to $1,072.50.", "1072.5", True),
        ("It comes to 12 000.", "12000", True),
        ("That makes 1.5 million people.", "1,500,000", True),
        ("That makes 1.5 million people.", "1.5", False),
        ("So the answer is Paris.", "paris", True),
        ("So the answer is Berlin.", "Paris", False),
        ("Therefore the answer is no.", "yes", False),
        ("Paris it is.", "Berlin", True),
    ],
)
def test_the_last_thought_must_not_contradict_the_answer(thought, answer, consistent):
    assert agrees(thought, answer) is consistent


def test_a_call_inside_the_answer_is_no_trace():
    assert read_trace(INLINE + "<answer>[Calculator(48+24) -> 72]</answer>", COMPACT) is None
    assert read_trace(INLINE + ANSWER, COMPACT) is not None
