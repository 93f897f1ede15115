"""Golden checks of the reward parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.records import Completion, ToolCall
from agentflow.rewards.parts import (
    accuracy_reward,
    calls_similarity,
    count_words,
    format_reward,
    jaccard,
    length_reward,
    same_calls,
    same_json,
    tool_similarity,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    ToolCall, st.sampled_from(["a", "b"]), st.dictionaries(st.sampled_from("xyz"), json_values, max_size=3)
)


@pytest.mark.parametrize("words, reward", [(0, 0), (13, 0), (14, 1), (57, 1), (100, 1), (101, 0)])
def test_fourteen_and_a_hundred_words_count_thirteen_and_a_hundred_and_one_do_not(words, reward):
    assert length_reward(count_words("word " * words)) == reward


def test_no_think_block_has_no_words():
    assert count_words(None) == 0 and count_words("  ") == 0


@pytest.mark.parametrize("well_formed, reward", [(True, 1.0), (False, 0.0)])
def test_format_is_all_or_nothing(well_formed, reward):
    assert format_reward(Completion("t", "a", (), well_formed)) == reward


@pytest.mark.parametrize("form, low, high", [("1+s", 1.0, 2.0), ("2s", 0.0, 2.0), ("3s", 0.0, 3.0)])
def test_accuracy_lies_between_the_bounds_of_its_form(form, low, high):
    assert accuracy_reward(True, 0.0, form=form) == low
    assert accuracy_reward(True, 1.0, form=form) == high
    assert accuracy_reward(False, 1.0, form=form) == -2.0
    assert accuracy_reward(False, 1.0, penalty=3.0, form=form) == -3.0


def test_jaccard_of_nothing_and_nothing_is_one():
    assert jaccard([], []) == 1.0
    assert jaccard(["a"], []) == 0.0
    assert jaccard(["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)


def test_similarity_of_calls_has_three_parts():
    gold = ToolCall("book", {"day": "Monday", "seats": 2})
    assert tool_similarity(gold, gold) == 1.0
    assert tool_similarity(ToolCall("cancel", gold.arguments), gold) == 0.0
    assert tool_similarity(ToolCall("book", {}), gold) == pytest.approx(1 / 3)
    assert tool_similarity(ToolCall("book", {"day": "Monday", "seats": 3}), gold) == pytest.approx((1 + 1 + 0.5) / 3)
    assert tool_similarity(ToolCall("book", {"day": "Monday"}), gold) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert tool_similarity(ToolCall("now", {}), ToolCall("now", {})) == 1.0
    assert tool_similarity(ToolCall("book", {"day": " monday ", "seats": 2}), gold, normalise=True) == 1.0


def test_several_calls_are_matched_as_well_as_possible():
    a, b = ToolCall("a", {"x": 1}), ToolCall("b", {"x": 1})
    assert calls_similarity([b, a], [a, b]) == 1.0
    assert calls_similarity([a], [a, b]) == 0.5
    assert calls_similarity([a, a], [a]) == 0.5
    assert calls_similarity([], []) == 1.0
    assert calls_similarity([], [a]) == calls_similarity([a], []) == 0.0


@pytest.mark.parametrize(
    "a, b, same",
    [
        (1, 1.0, True),
        (True, 1, False),
        ("1", 1, False),
        (None, False, False),
        ([1, [2]], [1, [2]], True),
        ({}, [], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (float("nan"), float("nan"), False),
    ],
)
def test_json_values_are_equal_with_their_types(a, b, same):
    assert same_json(a, b) is same


def test_depth_of_nesting_breaks_nothing():
    left: list = []
    right: list = []
    for _ in range(100_000):
        left, right = [left], [right]
    assert same_json(left, right)


@given(st.lists(calls, max_size=4), st.lists(calls, max_size=4))
def test_similarity_is_bounded_and_perfect_only_for_equal_calls(predicted, gold):
    score = calls_similarity(predicted, gold)
    assert 0.0 <= score <= 1.0 + 1e-9
    assert (score > 1.0 - 1e-9) == same_calls(predicted, gold)


@given(st.lists(calls, max_size=4), st.randoms())
def test_the_order_of_calls_does_not_matter(some, random):
    shuffled = list(some)
    random.shuffle(shuffled)
    assert same_calls(some, shuffled)
