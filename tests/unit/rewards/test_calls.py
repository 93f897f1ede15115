"""Golden checks of the ToolRL and the binary reward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.records import Completion, ToolCall
from agentflow.rewards import calls as rewards_of_calls
from agentflow.rewards.calls import BinaryConfig, ToolRlConfig
from agentflow.rewards.contract import Attempt, Gold

GOLD = ToolCall("book", {"day": "Monday", "seats": 2})
values = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=3)
calls = st.lists(st.builds(ToolCall, st.sampled_from(["a", "b"]), values), max_size=4)


def attempt(predicted: list[ToolCall] | None, well_formed: bool = True, has_think: bool = True) -> Attempt:
    """A turn with these calls; None: they cannot be read."""
    think = "so" if has_think else None
    return Attempt(
        Completion(think, None, tuple(predicted or ()), well_formed, unreadable=predicted is None), turn=True
    )


def toolrl(predicted, gold, well_formed, **config):
    asked = Gold("", calls=tuple(gold))
    return rewards_of_calls.toolrl(attempt(predicted, well_formed), asked, ToolRlConfig(**config))


def binary(predicted, gold, has_think, **config):
    asked = Gold("", calls=tuple(gold))
    return rewards_of_calls.binary(attempt(predicted, has_think=has_think), asked, BinaryConfig(**config))


def test_a_perfect_call_gets_three_and_one_for_the_format():
    reward = toolrl([GOLD], [GOLD], well_formed=True)
    assert reward.parts == {"format": 1.0, "correct": 3.0} and reward.total == 4.0


def test_an_unreadable_call_gets_minus_three():
    assert toolrl(None, [GOLD], well_formed=False).total == -3.0
    assert toolrl([], [GOLD], well_formed=False).parts["correct"] == -3.0


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_right_name_and_keys_with_no_right_value(k):
    gold = ToolCall("f", {f"k{i}": i for i in range(k)})
    predicted = ToolCall("f", {f"k{i}": "wrong" for i in range(k)})
    assert toolrl([predicted], [gold], True).parts["correct"] == pytest.approx(6 * 2 / (2 + k) - 3)


def test_each_prediction_is_used_once():
    one, two = ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})
    # Names 1/2, one gold call matched fully (2 of 2), the other not at all; S_max = 5.
    assert toolrl([one], [one, two], True).parts["correct"] == pytest.approx(6 * 2.5 / 5 - 3)
    assert toolrl([two, one], [one, two], True).parts["correct"] == 3.0


def test_a_gold_turn_without_a_call_gives_nothing_whatever_is_predicted():
    assert toolrl([], [], True).parts["correct"] == toolrl([GOLD], [], True).parts["correct"] == 0.0
    assert toolrl(None, [], False).total == 0.0


@given(calls | st.none(), calls, st.booleans())
def test_toolrl_stays_within_its_bounds(predicted, gold, well_formed):
    reward = toolrl(predicted, gold, well_formed)
    assert -3.0 <= reward.parts["correct"] <= 3.0
    assert reward.total == reward.parts["format"] + reward.parts["correct"]


def test_binary_wants_thought_and_exactly_the_expected_calls():
    other = ToolCall("book", {"seats": 2, "day": "Monday"})
    assert binary([other], [GOLD], has_think=True).total == 1.0
    assert binary([GOLD], [GOLD], has_think=False).total == 0.0
    assert binary([GOLD, GOLD], [GOLD], has_think=True).total == 0.0
    assert binary(None, [GOLD], has_think=True).total == 0.0
    assert binary([], [], has_think=True).total == 1.0


def test_weights_scale_the_sum_and_not_the_parts():
    weighted = toolrl([GOLD], [GOLD], True, format_weight=0.5, correct_weight=2.0)
    assert weighted.parts == {"format": 1.0, "correct": 3.0} and weighted.total == 6.5
    assert binary([GOLD], [GOLD], True, correct_weight=3.0).total == 3.0
