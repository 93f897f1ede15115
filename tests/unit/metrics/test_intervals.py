"""Intervals against published values, and nothing where nothing was measured."""

import numpy as np
import pytest

from agentflow.metrics.intervals import difference, paired_difference, wilson


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


def test_differences_of_independent_samples_match_newcombe_1998():
    assert difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert difference(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)
    assert difference(0, 10, 0, 20) == pytest.approx((-0.1611, 0.2775), abs=1e-4)
    assert difference(0, 0, 3, 10) is None


def test_differences_of_pairs_match_the_published_example():
    # Airway hyper-responsiveness before and after transplantation (Bentur 2009): 1 both, 1 and 7 alone, 12 neither.
    assert paired_difference(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=1e-3)
    assert paired_difference(0, 0, 0, 0) is None


def test_pairing_narrows_the_interval_of_answers_that_agree():
    paired, apart = paired_difference(48, 4, 6, 42), difference(52, 100, 54, 100)
    assert paired is not None and apart is not None
    assert apart[0] < paired[0] < -0.02 < paired[1] < apart[1]


def test_the_paired_interval_covers_the_truth_about_as_often_as_stated():
    random = np.random.default_rng(0)
    tables = random.multinomial(60, [0.45, 0.1, 0.15, 0.3], size=600)
    covered = sum(low <= -0.05 <= high for low, high in (paired_difference(*map(int, row)) for row in tables))  # type: ignore[misc]
    assert 0.93 <= covered / 600 <= 0.985
