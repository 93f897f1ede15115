"""What every reward is: a frozen configuration that declares its named parts, and what it is computed from.

A reward is a weighted sum of named parts: R = sum of weight * value. Every part has a range, within which it lies for
any string. `Attempt` is a rollout as a reward sees it, `Gold` what was asked for. Nothing here computes a reward.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from agentflow.config import Frozen
from agentflow.errors import InputError
from agentflow.records import Completion, ToolCall
from agentflow.rendering import parse_completion, parse_turn
from agentflow.rewards.trace import Trace, read_trace
from agentflow.syntax import Syntax

GOLD_CALLS = "gold_calls"
# Key in a question's `meta`: [{"name": ..., "arguments": {...}}, ...], the calls that are the right action.


@dataclass(frozen=True)
class Part:
    """A named part of a reward."""

    name: str
    weight: float
    # In the sum that is optimised.
    low: float
    high: float
    # Range of the unweighted value, both ends included.


@dataclass(frozen=True)
class Rewards:
    """A reward and what it consists of."""

    parts: dict[str, float]
    # Unweighted value of every part, by name.
    total: float
    # What the optimiser sees: the weighted sum.


class RewardConfig(Frozen):
    """Base of the rewards' configurations. A subclass has a `kind` and one weight field for each of its parts."""

    accuracy_part: ClassVar[str]
    # The part that says how right an action is; the collapse guard watches it.
    format_part: ClassVar[str | None] = None
    # The part that says how well-formed it is; None: the guard's rule about both is silent.

    def parts(self) -> tuple[Part, ...]:
        """The reward's parts, in the order in which they are logged."""
        raise NotImplementedError

    def best(self, gold: Gold) -> float:
        """The accuracy part of what is wholly right, where `gold` was asked for."""
        return next(part.high for part in self.parts() if part.name == self.accuracy_part)

    def weighted(self, values: Mapping[str, float]) -> Rewards:
        """`values` of all parts with their weighted sum."""
        return Rewards(dict(values), sum(part.weight * values[part.name] for part in self.parts()))


# ---------------------------------------------------------------- what was asked for
@dataclass(frozen=True)
class Gold:
    """The right end of a rollout: an answer, or calls."""

    answer: str
    aliases: tuple[str, ...] = ()
    answer_type: str = "text"
    # "number" or "text".
    calls: tuple[ToolCall, ...] = ()
    # Not empty: the right action is these calls, and no answer.


def gold_of(question: Mapping[str, Any]) -> Gold:
    """What a row of QUESTIONS columns asks for.

    Raises InputError if the `gold_calls` in its `meta` are no list of {"name": text, "arguments": object}.
    """
    given = (json.loads(question["meta"]) if question["meta"] else {}).get(GOLD_CALLS) or ()
    answer = (question["answer"], tuple(question["aliases"]), question["answer_type"])
    try:
        return Gold(*answer, calls=tuple(_call(one) for one in given))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"question {question['id']!r}: {GOLD_CALLS} {str(given)[:200]} cannot be read ({error}); "
            'give a list of {"name": text, "arguments": {...}}'
        ) from error


def _call(one: Any) -> ToolCall:
    name, arguments = one["name"], one["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"name {name!r}, arguments {arguments!r}")
    return ToolCall(name, arguments)


# ---------------------------------------------------------------- what was done
@dataclass(frozen=True)
class Attempt:
    """A completion as the rewards see it."""

    completion: Completion
    turn: bool = False
    # One turn whose calls were not executed (paper B); else a whole rollout that should end in an answer.
    written_think: str | None = None
    # The think block without calls and results: a model must not fill its length with a tool's words.
    trace: Trace | None = None
    # The rollout as thoughts, calls and observations; None where it has no such form.

    @property
    def action(self) -> Literal["call", "answer"] | None:
        """What the attempt does; None for neither, for both, and for what cannot be read."""
        done = self.completion
        if self.turn and (done.unreadable or (done.calls and done.answer is not None)):
            return None
        if self.turn and done.calls:
            return "call"
        return "answer" if done.answer else None


def read_attempt(
    text: str, syntax: Syntax, *, turn: bool = False, observations: Sequence[str] | None = None
) -> Attempt:
    """Read a completion; total. `observations`: results that tools really gave; None: those that stand in the text.

    A call inside the answer block is no part of the answer: nobody is rewarded for what a tool said.
    """
    completion = parse_turn(text, syntax) if turn else parse_completion(text, syntax)
    if completion.answer is not None:
        completion = replace(completion, answer=syntax.strip_calls(completion.answer).strip())
    written = syntax.strip_calls(completion.think) if completion.think is not None else None
    return Attempt(completion, turn, written, read_trace(text, syntax, observations))
