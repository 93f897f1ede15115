"""The composite reward of paper B: its parts add up, it is total, and tools cannot fill the length."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentflow.records import Completion
from agentflow.rewards.composite import RewardConfig, answer_similarity, composite

THINK = "word " * 20


def reward(answer: str | None, gold: str = "72", kind: str = "number", think: str | None = THINK, **config: object):
    completion = Completion(think, answer, (), think is not None and answer is not None)
    return composite(completion, gold, [], kind, RewardConfig(**config))


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
    assert composite(completion, "72", [], "number", RewardConfig()).parts["length"] == 1.0
    assert composite(completion, "72", [], "number", RewardConfig(), written_think="short ").parts["length"] == 0.0


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
    config = RewardConfig(answer_similarity=measure, accuracy_form=form)
    result = composite(completion, gold, ["x"], kind, config)
    assert math.isfinite(result.total) and -2.0 <= result.total <= 5.0
    assert result.total == sum(result.parts.values())


@pytest.mark.parametrize(
    "wrong", [{"penalty": float("nan")}, {"accuracy_weight": -1}, {"min_think_words": 101}, {"form": "1+s"}]
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        RewardConfig(**wrong)
