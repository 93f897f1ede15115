"""How far two samples lie apart: numbers by Kolmogorov-Smirnov, categories by the population stability index.

Both come with the distance that chance alone exceeds in a share `alpha` of samples of these sizes from one population,
so that a handful of rows is not called a drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import chi2, ks_2samp


class Distance(NamedTuple):
    """A distance of two samples and what chance explains of it."""

    value: float
    chance: float


def kolmogorov_smirnov(old: Sequence[float], new: Sequence[float], alpha: float) -> Distance | None:
    """Largest distance of the two empirical distribution functions, 0 to 1; None where a sample is empty.

    Source: Smirnov 1948; `chance` is his asymptotic bound sqrt(-ln(alpha/2)/2) * sqrt((n+m)/(n*m)), which for whole
    numbers (ties) is on the safe side.
    """
    if not old or not new:
        return None
    n, m = len(old), len(new)
    value = float(ks_2samp(old, new, method="asymp").statistic)
    return Distance(value, math.sqrt(-math.log(alpha / 2) / 2) * math.sqrt((n + m) / (n * m)))


def stability_index(old: Mapping[str, int], new: Mapping[str, int], alpha: float) -> Distance | None:
    """Population stability index: sum of (q - p) ln(q / p) over categories; None where a sample is empty.

    Half a row is added to every count, so that an empty category stays finite [O]. Source of `chance`: Yurdakul 2018,
    PSI is about (1/n + 1/m) times chi-squared with categories - 1 degrees of freedom.
    """
    names = sorted(old.keys() | new.keys())
    n, m = sum(old.values()), sum(new.values())
    if not n or not m:
        return None
    p = [(old.get(name, 0) + 0.5) / (n + 0.5 * len(names)) for name in names]
    q = [(new.get(name, 0) + 0.5) / (m + 0.5 * len(names)) for name in names]
    value = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    if len(names) == 1:
        return Distance(0.0, 0.0)
    return Distance(value, (1 / n + 1 / m) * float(chi2.ppf(1 - alpha, len(names) - 1)))
