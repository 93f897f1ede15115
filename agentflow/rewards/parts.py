"""The parts rewards are made of: small pure functions, each with its bounds and its source.

In: what a model wrote, already parsed (calls, think text, flags), and what was expected. Out: a finite float.
Nothing here parses text, runs tools or asks a model; `similarity` is a number somebody else computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from agentflow.records import Completion, ToolCall

AccuracyForm = Literal["1+s", "2s", "3s"]


# ---------------------------------------------------------------- paper B
def format_reward(completion: Completion) -> float:
    """1.0 iff one think block, then one action (answer or calls), nothing else; otherwise 0.0 (paper B; all-or-nothing
    ours).
    """
    return 1.0 if completion.well_formed else 0.0


def count_words(text: str | None) -> int:
    """Words of `text`, split at white space; 0 for None."""
    return len(text.split()) if text else 0


def length_reward(words: int, minimum: int = 14, maximum: int = 100) -> float:
    """1.0 iff minimum <= words <= maximum, otherwise 0.0 (paper B; both bounds count)."""
    return 1.0 if minimum <= words <= maximum else 0.0


def accuracy_reward(action_right: bool, similarity: float, penalty: float = 2.0, form: AccuracyForm = "1+s") -> float:
    """-penalty for a wrong or unreadable action type, else `form` of the similarity in [0, 1] (paper B, values ours).

    Forms: "1+s" in [1, 2], "2s" in [0, 2], "3s" in [0, 3].
    """
    if not action_right:
        return -penalty
    return {"1+s": 1.0 + similarity, "2s": 2.0 * similarity, "3s": 3.0 * similarity}[form]


def tool_similarity(predicted: ToolCall, gold: ToolCall, normalise: bool = False) -> float:
    """S_tool in [0, 1]: 0 for another tool, else (1 + J(keys) + share of gold arguments with equal value) / 3.

    Paper B names the three parts, their combination is ours. No gold arguments: the share is 1. `normalise` compares
    strings without case and outer white space.
    """
    if predicted.tool != gold.tool:
        return 0.0
    matched = count_equal(predicted.arguments, gold.arguments, normalise)
    share = matched / len(gold.arguments) if gold.arguments else 1.0
    return (1.0 + jaccard(predicted.arguments, gold.arguments) + share) / 3.0


def calls_similarity(predicted: Sequence[ToolCall], gold: Sequence[ToolCall], normalise: bool = False) -> float:
    """Mean S_tool of the best one-to-one assignment over max(calls predicted, calls expected); 1.0 if both empty."""
    if not predicted or not gold:
        return 1.0 if not predicted and not gold else 0.0
    scores = [[tool_similarity(p, g, normalise) for g in gold] for p in predicted]
    from scipy.optimize import linear_sum_assignment  # 0.7 s of every process that only reads a configuration

    rows, columns = linear_sum_assignment(scores, maximize=True)
    best = float(sum(scores[r][c] for r, c in zip(rows, columns, strict=True)))
    return min(1.0, best / max(len(predicted), len(gold)))


# ---------------------------------------------------------------- comparing arguments
def jaccard(a: Collection[str], b: Collection[str]) -> float:
    """|a & b| / |a | b| of the distinct members; 1.0 if both are empty."""
    first, second = set(a), set(b)
    return len(first & second) / len(first | second) if first or second else 1.0


def count_equal(predicted: dict[str, Any], gold: dict[str, Any], normalise: bool = False) -> int:
    """How many gold arguments are present with an equal value."""
    return sum(key in predicted and same_json(predicted[key], value, normalise) for key, value in gold.items())


def same_json(a: Any, b: Any, normalise: bool = False) -> bool:
    """Equality of JSON values with their types: true is not 1, "1" is not 1; 1 and 1.0 are the same number.

    Works without recursion, so no depth of nesting breaks it. NaN equals nothing.
    """
    pending = [(a, b)]
    while pending:
        left, right = pending.pop()
        if isinstance(left, dict) and isinstance(right, dict):
            if left.keys() != right.keys():
                return False
            pending.extend((left[key], right[key]) for key in left)
        elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
            if len(left) != len(right):
                return False
            pending.extend(zip(left, right, strict=True))
        elif not _same_scalar(left, right, normalise):
            return False
    return True


def _same_scalar(a: Any, b: Any, normalise: bool) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if normalise and isinstance(a, str) and isinstance(b, str):
        return a.strip().casefold() == b.strip().casefold()
    return type(a) is type(b) and bool(a == b)


def same_call(a: ToolCall, b: ToolCall) -> bool:
    """Same tool and equal arguments."""
    return a.tool == b.tool and same_json(a.arguments, b.arguments)


def same_calls(a: Sequence[ToolCall], b: Sequence[ToolCall]) -> bool:
    """Whether both hold the same calls equally often, in any order."""
    rest = list(b)
    for call in a:
        found = next((i for i, other in enumerate(rest) if same_call(call, other)), None)
        if found is None:
            return False
        del rest[found]
    return not rest
