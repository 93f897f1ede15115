"""Rewards of a turn that should call tools, from neighbouring work: ToolRL and Tool-N1.

In: an attempt and the expected calls. Out: `Rewards`. Both compare all calls that the attempt wrote, executed or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from agentflow.records import ToolCall
from agentflow.rewards.contract import Attempt, Gold, Part, RewardConfig, Rewards
from agentflow.rewards.parts import count_equal, jaccard, same_calls


class ToolRlConfig(RewardConfig):
    """ToolRL's reward (arXiv 2504.13958). Both weights 1 [P]."""

    accuracy_part: ClassVar[str] = "correct"
    format_part: ClassVar[str | None] = "format"
    kind: Literal["toolrl"] = "toolrl"
    format_weight: float = Field(default=1.0, ge=0, le=1000)
    correct_weight: float = Field(default=1.0, ge=0, le=1000)

    def parts(self) -> tuple[Part, ...]:
        """R_format 0 or 1, R_correct in [-3, 3]."""
        return (Part("format", self.format_weight, 0.0, 1.0), Part("correct", self.correct_weight, -3.0, 3.0))


class BinaryConfig(RewardConfig):
    """The reward of Tool-N1: right or not."""

    accuracy_part: ClassVar[str] = "correct"
    kind: Literal["binary"] = "binary"
    correct_weight: float = Field(default=1.0, ge=0, le=1000)

    def parts(self) -> tuple[Part, ...]:
        """One part, 0 or 1. A missing think block is a wrong turn, so there is no format part."""
        return (Part("correct", self.correct_weight, 0.0, 1.0),)


def toolrl(attempt: Attempt, gold: Gold, config: ToolRlConfig) -> Rewards:
    """R = R_format (0 or 1) + R_correct in [-3, 3] (ToolRL, arXiv 2504.13958, as its public code computes it).

    R_correct = 6 * score / S_max - 3 with score = multiset Jaccard of the names + for every gold call, in order, the
    best unused prediction of the same name (Jaccard of keys + number of equal values); S_max = 1 + sum(1 + keys).
    Equal lists give 3, unreadable calls -3. As published, a gold turn without a call gives R_correct 0 whatever was
    predicted: it neither rewards staying quiet nor punishes a needless call.
    """
    form = 1.0 if attempt.completion.well_formed else 0.0
    return config.weighted({"format": form, "correct": _toolrl_correct(_readable(attempt), gold.calls)})


def binary(attempt: Attempt, gold: Gold, config: BinaryConfig) -> Rewards:
    """1 iff there is a think block and the multiset of (name, arguments) equals the expected one (Tool-N1), else 0."""
    predicted = _readable(attempt)
    thinks = attempt.completion.think is not None
    right = thinks and predicted is not None and same_calls(predicted, gold.calls)
    return config.weighted({"correct": 1.0 if right else 0.0})


def _readable(attempt: Attempt) -> Sequence[ToolCall] | None:
    """The calls an attempt wrote; None if one of them cannot be read."""
    return None if attempt.completion.unreadable else attempt.completion.calls


def _toolrl_correct(predicted: Sequence[ToolCall] | None, gold: Sequence[ToolCall]) -> float:
    if not gold:
        return 0.0
    if predicted is None:
        return -3.0
    if same_calls(predicted, gold):
        return 3.0
    score = _multiset_jaccard([call.tool for call in predicted], [call.tool for call in gold])
    rest = list(predicted)
    for wanted in gold:
        candidates = [
            (jaccard(call.arguments, wanted.arguments) + count_equal(call.arguments, wanted.arguments), -i)
            for i, call in enumerate(rest)
            if call.tool == wanted.tool
        ]
        if candidates:
            best, index = max(candidates)
            score += best
            del rest[-index]
    highest = 1.0 + sum(1.0 + len(call.arguments) for call in gold)
    return 6.0 * score / highest - 3.0


def _multiset_jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    first, second = Counter(a), Counter(b)
    return (first & second).total() / (first | second).total() if first or second else 1.0
