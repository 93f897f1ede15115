"""Group-relative advantages: rewards in, advantages out.

A_i = (r_i - mean) / (std + 1e-4) over the samples of one prompt
(GRPO: DeepSeekMath, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

EPSILON = 1e-4
# As TRL adds it to the standard deviation.


def group_advantages(rewards: Sequence[float | None], size: int) -> list[float | None]:
    """Advantages of consecutive groups of `size` rewards.

    None (a failed rollout) is in no mean and no std, and stays None.

    The std is the sample standard deviation (n - 1) of the rest, as in TRL; a group of equal rewards, or with fewer
    than two left, has advantage 0. Raises ValueError if the rewards are not whole groups.
    """
    if size < 1 or len(rewards) % size:
        raise ValueError(f"{len(rewards)} rewards are not whole groups of {size}")
    advantages: list[float | None] = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        known = [reward for reward in group if reward is not None]
        mean = sum(known) / len(known) if known else 0.0
        std = math.sqrt(sum((r - mean) ** 2 for r in known) / (len(known) - 1)) if len(known) > 1 else 0.0
        advantages += [None if reward is None else (reward - mean) / (std + EPSILON) for reward in group]
    return advantages
