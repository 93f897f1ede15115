"""The composite reward of paper B: its parts add up, it is total, and tools cannot fill the length."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentflow.records import Completion, ToolCall
from agentflow.rewards.composite import CompositeConfig, answer_similarity, composite
from agentflow.rewards.contract import Attempt, Gold

THINK = "word " * 20


def reward(answer: str | None, gold: str = "72", kind: str = "number", think: str | None = THINK, **config: object):
    completion = Completion(think, answer, (), think is not None and answer is not None)
    return composite(Attempt(completion), Gold(gold, (), kind), CompositeConfig(**config))


def test_a_right_well_formed_answer_of_fair_length_gets_four():
    assert reward("72.0").parts == {"accuracy": 2.0, "format": 1.0, "length": 1.0}
    assert reward("72.0").total == 4.0


def test_a_wrong_answer_still_answers():
    assert reward("71").parts["accuracy"] == 1.0


@pytest.mark.parametrize("answer", [None, ""])
def test_an_unreadable_answer_is_penalised(answer):
    assert reward(answer).parts["accuracy"] == -2.0
    assert reward(answer, penalty=1.0).parts["accuracy"] == -1.0


def test_text_answers_earn_by_their_words():
    assert reward("New York", gold="New York City", kind="text").parts["accuracy"] == pytest.approx(1.8)
    assert reward("New York", gold="New York City", kind="text", answer_similarity="em").parts["accuracy"] == 1.0


def test_weights_scale_the_parts_but_do_not_change_them():
    weighted = reward("72", accuracy_weight=0.5, format_weight=0.0, length_weight=2.0)
    assert weighted.parts == {"accuracy": 2.0, "format": 1.0, "length": 1.0}
    assert weighted.total == 3.0


def test_words_of_calls_and_results_do_not_fill_the_length():
    completion = Completion("short [Search(x) -> " + "word " * 30 + "]", "72", (), True)
    gold = Gold("72", (), "number")
    assert composite(Attempt(completion), gold, CompositeConfig()).parts["length"] == 1.0
    own = Attempt(completion, written_think="short ")
    assert composite(own, gold, CompositeConfig()).parts["length"] == 0.0


def test_a_missing_think_block_earns_neither_format_nor_length():
    assert reward("72", think=None).parts == {"accuracy": 2.0, "format": 0.0, "length": 0.0}


@pytest.mark.parametrize("measure, value", [("by_type", 1.0), ("numeric_em", 1.0), ("token_f1", 0.0), ("em", 0.0)])
def test_the_measure_of_similarity_can_be_chosen(measure, value):
    assert answer_similarity("72.0", "72", [], "number", measure) == value


def test_aliases_count():
    assert answer_similarity("NYC", "New York City", ["NYC"], "text") == 1.0


@given(
    st.builds(Completion, st.none() | st.text(), st.none() | st.text(), st.just(()), st.booleans()),
    st.text(),
    st.sampled_from(["number", "text"]),
    st.sampled_from(["by_type", "numeric_em", "token_f1", "em"]),
    st.sampled_from(["1+s", "2s", "3s"]),
)
def test_it_is_total_finite_and_bounded(completion, gold, kind, measure, form):
    config = CompositeConfig(answer_similarity=measure, accuracy_form=form)
    result = composite(Attempt(completion), Gold(gold, ("x",), kind), config)
    assert math.isfinite(result.total) and -2.0 <= result.total <= 5.0
    assert result.total == sum(result.parts.values())


@pytest.mark.parametrize(
    "wrong", [{"penalty": float("nan")}, {"accuracy_weight": -1}, {"min_think_words": 101}, {"form": "1+s"}]
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CompositeConfig(**wrong)


# ---------------------------------------------------------------- turns with gold calls (paper B)
BOOK = ToolCall("book", {"day": "Monday", "seats": 2})
ASKED = Gold("", calls=(BOOK,))


def turn(*calls: ToolCall, answer: str | None = None, unreadable: bool = False) -> Attempt:
    return Attempt(Completion(THINK, answer, calls, not unreadable, unreadable), turn=True)


def accuracy(attempt: Attempt, gold: Gold = ASKED, similarity: float | None = None, **config: object) -> float:
    return composite(attempt, gold, CompositeConfig(**config), similarity).parts["accuracy"]


def test_the_expected_call_gets_two_and_its_arguments_count():
    assert composite(turn(BOOK), ASKED, CompositeConfig()).total == 4.0
    assert accuracy(turn(ToolCall("book", {"day": "Friday", "seats": 2}))) == pytest.approx(1 + (1 + 1 + 0.5) / 3)
    assert accuracy(turn(ToolCall("cancel", BOOK.arguments))) == 1.0, "a call was right, the tool was not"
    shouted = turn(ToolCall("book", {"day": " MONDAY", "seats": 2}))
    assert accuracy(shouted) < accuracy(shouted, normalise_arguments=True) == 2.0


@pytest.mark.parametrize(
    "attempt", [turn(answer="It is booked."), turn(), turn(BOOK, answer="done"), turn(BOOK, unreadable=True)]
)
@pytest.mark.parametrize("penalty", [1.0, 2.0, 3.0])
def test_a_wrong_action_or_none_or_both_or_an_unreadable_one_is_penalised(attempt, penalty):
    assert accuracy(attempt, penalty=penalty) == -penalty


def test_a_call_where_an_answer_is_right_is_penalised():
    assert accuracy(turn(BOOK), Gold("It is booked.")) == -2.0
    assert accuracy(turn(answer="It is booked."), Gold("It is booked.")) == 2.0


def test_calls_may_have_a_form_of_their_own():
    forms = {"accuracy_form": "1+s", "call_form": "3s"}
    assert accuracy(turn(BOOK), **forms) == 3.0
    assert accuracy(turn(answer="yes"), Gold("yes"), **forms) == 2.0
    assert CompositeConfig(**forms).parts()[0].high == 3.0


def test_several_calls_of_a_turn_are_assigned_as_well_as_possible():
    other = ToolCall("book", {"day": "Friday", "seats": 1})
    assert accuracy(turn(other, BOOK), Gold("", calls=(BOOK, other))) == 2.0
    assert accuracy(turn(BOOK), Gold("", calls=(BOOK, other))) == 1.5


def test_a_model_says_how_close_an_answer_is_and_nothing_is_made_up_without_it():
    said = {"answer_similarity": "cross_encoder"}
    assert accuracy(turn(answer="booked"), Gold("done"), 0.25, **said) == 1.25
    assert accuracy(turn(BOOK), ASKED, **said) == 2.0, "calls need no model"
    with pytest.raises(ValueError, match="'cross_encoder': its model was not asked"):
        accuracy(turn(answer="booked"), Gold("done"), **said)
