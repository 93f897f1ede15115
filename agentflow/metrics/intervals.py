"""Confidence intervals of proportions and of their differences: counts in, bounds out."""

from __future__ import annotations

import math

from scipy.stats import binomtest


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson score interval of the proportion k/n at confidence `level`; None for n = 0 (nothing was measured).

    Source: Wilson 1927, as scipy computes it (no continuity correction). Raises ValueError unless 0 <= k <= n.
    """
    if n == 0 and k == 0:
        return None
    interval = binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def difference(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of k1/n1 - k2/n2 for two independent samples; None if one of them is empty.

    Source: Newcombe 1998 (Statistics in Medicine 17, 873), method 10: the Wilson bounds, squared and added.
    """
    one, other = wilson(k1, n1, level), wilson(k2, n2, level)
    if one is None or other is None:
        return None
    return _squared_and_added(k1 / n1, one, k2 / n2, other, 0.0)


def paired_difference(
    both: int, only1: int, only2: int, neither: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of p1 - p2 where the same questions were asked twice; None without any question.

    `both` were right both times, `only1` only in sample 1, and so on [sum: questions].
    Source: Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: as `difference`, less the correlation phi of the
    two answers, corrected for continuity.
    """
    n = both + only1 + only2 + neither
    one, other = wilson(both + only1, n, level), wilson(both + only2, n, level)
    if one is None or other is None:
        return None
    margins = (both + only1) * (only2 + neither) * (both + only2) * (only1 + neither)
    covariance = both * neither - only1 * only2
    corrected = max(covariance - n / 2, 0.0) if covariance > 0 else float(covariance)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    return _squared_and_added((both + only1) / n, one, (both + only2) / n, other, phi)


def _squared_and_added(
    p1: float, bounds1: tuple[float, float], p2: float, bounds2: tuple[float, float], phi: float
) -> tuple[float, float]:
    down1, up1 = p1 - bounds1[0], bounds1[1] - p1
    down2, up2 = p2 - bounds2[0], bounds2[1] - p2
    low = math.sqrt(max(down1**2 - 2 * phi * down1 * up2 + up2**2, 0.0))
    high = math.sqrt(max(up1**2 - 2 * phi * up1 * down2 + down2**2, 0.0))
    return max(p1 - p2 - low, -1.0), min(p1 - p2 + high, 1.0)
