"""Group-relative advantages: rewards in, advantages out.

A_i = (r_i - mean) / (std + 1e-4) over the samples of one prompt
(GRPO: DeepSeekMath, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

EPSILON = 1e-4
# As TRL adds it to the standard deviation.


Scale = Literal["group", "none"]


def spread(rewards: Sequence[float]) -> float:
    """Sample standard deviation (n - 1) of `rewards`, as in TRL; 0 for fewer than two."""
    if len(rewards) < 2:
        return 0.0
    mean = sum(rewards) / len(rewards)
    return math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))


def group_advantages(rewards: Sequence[float | None], size: int, scale: Scale = "group") -> list[float | None]:
    """Advantages of consecutive groups of `size` rewards; with `scale` "none" they are not divided by the std.

    None (a failed rollout) is in no mean and no std, and stays None. A group of equal rewards, or with fewer than two
    left, has advantage 0. Raises ValueError if the rewards are not whole groups.
    """
    if size < 1 or len(rewards) % size:
        raise ValueError(f"{len(rewards)} rewards are not whole groups of {size}")
    advantages: list[float | None] = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        known = [reward for reward in group if reward is not None]
        mean = sum(known) / len(known) if known else 0.0
        by = spread(known) + EPSILON if scale == "group" else 1.0
        advantages += [None if reward is None else (reward - mean) / by for reward in group]
    return advantages
