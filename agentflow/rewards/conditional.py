"""Conditional intermediate rewards: the parts that are not the final answer's count only under a condition [O].

In: a rollout's named parts and what its final answer was. Out: the same parts, those that do not count set to 0.0.

    always    every part counts (the papers)
    if_right  format, length and the like count only where the final answer is right: nothing can be earned around it
    if_wrong  they count only where an answer could be read and it is wrong: a hint for a policy that is rarely right,
              which a right answer does not need and a missing one does not earn
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from agentflow.metrics.answers import is_correct

IntermediateRule = Literal["always", "if_right", "if_wrong"]
Verdict = Literal["right", "wrong", "unreadable"]
FINAL_PART = "accuracy"
# Name of the part that judges the final answer itself; it always counts.


def verdict_of(answer: str | None, gold: str, aliases: Iterable[str], answer_type: str) -> Verdict:
    """What a final answer is worth; None and "" could not be read."""
    if not answer:
        return "unreadable"
    return "right" if is_correct(answer, gold, aliases, answer_type) else "wrong"


def conditional(
    parts: Mapping[str, float], verdict: Verdict, rule: IntermediateRule, final: str = FINAL_PART
) -> dict[str, float]:
    """`parts` with all but the `final` one at 0.0 where `rule` says that they do not count."""
    counts = rule in ("always", f"if_{verdict}")
    return {name: value if counts or name == final else 0.0 for name, value in parts.items()}
