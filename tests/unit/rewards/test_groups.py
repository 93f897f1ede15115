"""Group-relative advantages: equal rewards teach nothing, failed rollouts are in no mean, the formula is TRL's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from agentflow.rewards.groups import EPSILON, group_advantages

rewards = st.floats(-5, 5, width=32)
maybe_rewards = rewards | st.none()


@given(st.floats(-1e6, 1e6), st.integers(1, 8), st.integers(1, 3))
def test_a_group_of_equal_rewards_has_zero_advantage(reward, size, groups):
    assert group_advantages([reward] * size * groups, size) == pytest.approx([0.0] * size * groups, abs=1e-4)


def test_equal_exact_rewards_have_exactly_zero_advantage():
    assert group_advantages([3.0] * 8, 8) == [0.0] * 8


def test_a_failed_rollout_is_in_no_mean_and_no_std_and_stays_none():
    with_failure = group_advantages([1.0, None, 2.0, 4.0], 4)
    assert with_failure[1] is None
    assert [a for a in with_failure if a is not None] == group_advantages([1.0, 2.0, 4.0], 3)


def test_with_fewer_than_two_rewards_left_the_advantage_is_zero():
    assert group_advantages([None, 5.0, None, None], 4) == [None, 0.0, None, None]
    assert group_advantages([None, None], 2) == [None, None]
    assert group_advantages([5.0], 1) == [0.0]


def test_groups_do_not_see_each_other():
    first, second = [1.0, 2.0], [10.0, 30.0]
    assert group_advantages(first + second, 2) == group_advantages(first, 2) + group_advantages(second, 2)


@given(
    st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(maybe_rewards, min_size=2 * n, max_size=2 * n)))
)
def test_advantages_equal_trls_over_groups_with_missing_rewards(case):
    size, given_rewards = case
    ours = group_advantages(given_rewards, size)
    # As in trl.GRPOTrainer with scale_rewards="group": nan for an unscorable completion, 0 for its advantage.
    values = torch.tensor([math.nan if r is None else r for r in given_rewards], dtype=torch.float64).view(-1, size)
    advantages = (values - torch.nanmean(values, dim=1, keepdim=True)) / (nanstd(values, dim=1, keepdim=True) + EPSILON)
    theirs = torch.nan_to_num(advantages, nan=0.0).flatten().tolist()
    assert [0.0 if a is None else a for a in ours] == pytest.approx(theirs, abs=1e-6)


@given(st.lists(rewards, min_size=2, max_size=8))
def test_the_advantages_of_a_group_sum_to_zero_and_keep_the_order(group):
    advantages = group_advantages(group, len(group))
    assert sum(a for a in advantages if a is not None) == pytest.approx(0, abs=1e-6)
    ranked = [a for _, a in sorted(zip(group, advantages, strict=True)) if a is not None]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize("n, size", [(3, 2), (5, 4), (4, 0), (1, -1)])
def test_rewards_that_are_not_whole_groups_are_refused(n, size):
    with pytest.raises(ValueError, match=f"{n} rewards are not whole groups of {size}"):
        group_advantages([1.0] * n, size)
