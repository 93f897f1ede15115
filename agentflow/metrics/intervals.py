"""Confidence intervals of proportions: counts in, bounds out."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson score interval of the proportion k/n at confidence `level`; None for n = 0 (nothing was measured).

    Source: Wilson 1927, as scipy computes it (no continuity correction). Raises ValueError unless 0 <= k <= n.
    """
    if n == 0 and k == 0:
        return None
    interval = binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)
