"""Grading one completion: a request as JSON data in, the parts of its reward or a typed failure out.

The same function runs in a test and in the killable process (`worker`). It trusts no reward: a part that is missing,
not finite or outside its declared range is a failure of the grader, never a score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentflow.config import Frozen
from agentflow.rewards.choice import AnyReward, RewardChoice, score
from agentflow.rewards.contract import gold_of, read_attempt
from agentflow.syntax import Syntax, SyntaxName

FAILURES = ("grader_timeout", "grader_died", "grader_error", "grader_value")
# What a rollout's failure is called: no verdict in time, the process gone, an exception, a value out of range.
# Any other failure of a rollout is a tool's.
_SLACK = 1e-9
# Of floating point, at the ends of a range.


class GraderSetup(Frozen):
    """What all requests of a training share."""

    reward: RewardChoice
    syntax: SyntaxName
    primary: dict[str, str]
    # Tool name to the argument its compact syntax carries.
    turn: bool = False
    # Completions are single turns, see `rewards.contract.Attempt`.
    schemas: list[dict[str, Any]] = []
    # OpenAI function objects of the tools, for rewards that check calls against them.


@dataclass(frozen=True)
class Verdict:
    """What the grader says of one completion."""

    parts: dict[str, float] | None = None
    # By name; None if grading failed.
    answer: str | None = None
    # The answer that was read; None where there is none.
    failure: str | None = None
    # One of FAILURES.
    detail: str = ""


def tool_failed(failure: str | None) -> bool:
    """Whether a rollout's `failure` is that of a tool it had called, and not of its grading."""
    return failure is not None and failure not in FAILURES


def question_part(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a question that a grader reads."""
    return {name: row[name] for name in ("id", "answer", "aliases", "answer_type", "meta")}


def grade(setup: GraderSetup, request: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Verdict for a request {"text", "observations"}, and {"question", "similarity"} to be scored.

    Without a question nothing is scored: the answer alone is wanted. Raises what a reward raises.
    """
    syntax = Syntax(setup.syntax, setup.primary)
    attempt = read_attempt(request["text"], syntax, turn=setup.turn, observations=request["observations"])
    answer = attempt.completion.answer if attempt.action == "answer" else None
    if "question" not in request:
        return {"answer": answer}
    gold = gold_of(request["question"])
    rewards = score(setup.reward, attempt, gold, request["similarity"], setup.schemas)
    wrong = out_of_range(setup.reward, rewards.parts)
    if wrong is not None:
        return {"answer": answer, "failure": "grader_value", "detail": wrong}
    return {"answer": answer, "parts": rewards.parts}


def out_of_range(reward: AnyReward, values: Mapping[str, float]) -> str | None:
    """What is wrong with the values of a reward's parts; None if each is there, finite and within its range."""
    declared = {part.name: part for part in reward.parts()}
    if set(values) != set(declared):
        return f"parts {sorted(values)} instead of {sorted(declared)}"
    for name, part in declared.items():
        value = values[name]
        if not math.isfinite(value) or not part.low - _SLACK <= value <= part.high + _SLACK:
            return f"part {name!r} is {value}, allowed {part.low:g} to {part.high:g}"
    return None
