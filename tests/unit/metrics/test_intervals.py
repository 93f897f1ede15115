"""Wilson intervals against published values, and nothing where nothing was measured."""

import pytest

from agentflow.metrics.intervals import wilson


def test_known_values():
    assert wilson(7, 10) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_a_higher_level_is_wider():
    low, high = wilson(48, 64) or (0, 0)
    wide_low, wide_high = wilson(48, 64, level=0.99) or (0, 0)
    assert wide_low < low < 0.75 < high < wide_high


def test_no_trials_have_no_interval():
    assert wilson(0, 0) is None


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError):
        wilson(11, 10)
