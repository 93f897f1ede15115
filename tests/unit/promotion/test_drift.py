"""Distances of samples: known values, and no drift where chance explains it."""

from __future__ import annotations

import math

import numpy as np

from agentflow.promotion.drift import kolmogorov_smirnov, stability_index


def test_the_distance_is_the_largest_gap_of_the_distributions():
    found = kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6], alpha=0.05)
    assert found is not None and found.value == 0.5
    assert found.chance == math.sqrt(-math.log(0.025) / 2) * math.sqrt(8 / 16)
    assert kolmogorov_smirnov([], [1], alpha=0.05) is None


def test_the_stability_index_is_zero_for_equal_shares_and_known_for_unequal_ones():
    same = stability_index({"a": 50, "b": 50}, {"a": 500, "b": 500}, alpha=0.05)
    assert same is not None and abs(same.value) < 1e-12
    shifted = stability_index({"a": 5000, "b": 5000}, {"a": 8000, "b": 2000}, alpha=0.05)
    assert shifted is not None and abs(shifted.value - (0.3 * math.log(1.6) - 0.3 * math.log(0.4))) < 1e-3
    empty = stability_index({"a": 10}, {"b": 10}, alpha=0.05)
    assert empty is not None and math.isfinite(empty.value) and empty.value > 0.25
    assert stability_index({}, {"a": 1}, alpha=0.05) is None


def test_equal_populations_exceed_what_chance_allows_no_more_often_than_stated():
    random = np.random.default_rng(0)
    apart = shifted = 0
    for _ in range(400):
        old, new = random.poisson(3, 60).tolist(), random.poisson(3, 80).tolist()
        distance = kolmogorov_smirnov(old, new, alpha=0.05)
        index = stability_index(
            dict(zip("abc", random.multinomial(60, [0.5, 0.3, 0.2]).tolist(), strict=True)),
            dict(zip("abc", random.multinomial(80, [0.5, 0.3, 0.2]).tolist(), strict=True)),
            alpha=0.05,
        )
        assert distance is not None and index is not None
        apart += distance.value > distance.chance
        shifted += index.value > index.chance
    assert apart <= 30 and shifted <= 30
