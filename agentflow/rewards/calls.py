"""Rewards of a turn that should call tools, from neighbouring work: ToolRL and Tool-N1.

In: the calls a model wrote (None if they could not be read), the expected ones, flags of the parser. Out: `Rewards`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agentflow.records import ToolCall
from agentflow.rewards.parts import Rewards, count_equal, jaccard, same_calls


def toolrl(predicted: Sequence[ToolCall] | None, gold: Sequence[ToolCall], well_formed: bool) -> Rewards:
    """R = R_format (0 or 1) + R_correct in [-3, 3] (ToolRL, arXiv 2504.13958, as its public code computes it).

    R_correct = 6 * score / S_max - 3 with score = multiset Jaccard of the names + for every gold call, in order, the
    best unused prediction of the same name (Jaccard of keys + number of equal values); S_max = 1 + sum(1 + keys).
    Equal lists give 3, unreadable calls (`predicted` None) -3. As published, a gold turn without a call gives
    R_correct 0 whatever was predicted: it neither rewards staying quiet nor punishes a needless call.
    """
    correct = _toolrl_correct(predicted, gold)
    form = 1.0 if well_formed else 0.0
    return Rewards(parts={"format": form, "correct": correct}, total=form + correct)


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


def binary(predicted: Sequence[ToolCall] | None, gold: Sequence[ToolCall], has_think: bool) -> Rewards:
    """1 iff there is a think block and the multiset of (name, arguments) equals the expected one (Tool-N1), else 0."""
    right = has_think and predicted is not None and same_calls(predicted, gold)
    value = 1.0 if right else 0.0
    return Rewards(parts={"correct": value}, total=value)
