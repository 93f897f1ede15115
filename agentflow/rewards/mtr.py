"""MTR's composite reward of a whole trace, and ReCall's as its alternative.

R = 1.0 A + 0.3 C + 0.2 F, and 0 where F = 0 (arXiv 2510.06825; the parts are the paper's, their definitions and
weights ours, since its formulas are lost):

    A  accuracy      max(EM, F1) of the answer over gold and aliases (SQuAD)
    F  format        1 iff the trace follows the grammar (`trace`) with min_calls to max_calls calls
    C  consistency   mean of: share of calls valid against their tool's schema; share of the answer's content words that
                     one observation holds; no call stands twice; the last thought does not contradict the answer

So that the reward is a sum of its parts, each part is 0 where F = 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

import jsonschema
import referencing
from pydantic import Field, model_validator

from agentflow.metrics.answers import exact_match, normalise, token_f1
from agentflow.metrics.numbers import numbers_in, parse_number
from agentflow.records import ToolCall
from agentflow.rewards.contract import Attempt, Gold, Part, RewardConfig, Rewards
from agentflow.rewards.parts import same_call
from agentflow.rewards.trace import Trace
from agentflow.tools.contract import argument_fault

_STATED = re.compile(r"\banswer(?: is|:)\s+([^.\n]+)", re.IGNORECASE)
_EMPTY_WORDS = frozenset("yes no noanswer of in on at to and or is was were are be it he she they for by with".split())
# Words that no observation can support.


class MtrConfig(RewardConfig):
    """Weights and form. All values [O]."""

    accuracy_part: ClassVar[str] = "accuracy"
    format_part: ClassVar[str | None] = "format"
    kind: Literal["mtr"] = "mtr"
    form: Literal["mtr", "recall"] = "mtr"
    # recall: 0 where F = 0, else F1 of the answer, or `wrong_answer` where that is 0 (ReCall). The weights of
    # consistency and format then do not count.
    accuracy_weight: float = Field(default=1.0, ge=0, le=1000)
    consistency_weight: float = Field(default=0.3, ge=0, le=1000)
    format_weight: float = Field(default=0.2, ge=0, le=1000)
    wrong_answer: float = Field(default=0.1, ge=0, le=1)
    # Only for form recall: of a well-formed trace with a wrong answer.
    min_calls: int = Field(default=1, ge=0)
    # Fewer calls are no trace.
    max_calls: int = Field(default=5, ge=0)
    # More calls neither.

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_calls > self.max_calls:
            raise ValueError(
                f"min_calls {self.min_calls} is above max_calls {self.max_calls}; no trace could be well-formed; "
                "lower the first or raise the second"
            )
        return self

    def parts(self) -> tuple[Part, ...]:
        """A, C and F; for form recall the answer, what a wrong one gets, and F for the record (weight 0)."""
        if self.form == "recall":
            return (
                Part("accuracy", 1.0, 0.0, 1.0),
                Part("wrong_answer", self.wrong_answer, 0.0, 1.0),
                Part("format", 0.0, 0.0, 1.0),
            )
        return (
            Part("accuracy", self.accuracy_weight, 0.0, 1.0),
            Part("consistency", self.consistency_weight, 0.0, 1.0),
            Part("format", self.format_weight, 0.0, 1.0),
        )


def mtr(attempt: Attempt, gold: Gold, config: MtrConfig, schemas: Sequence[Mapping[str, Any]] = ()) -> Rewards:
    """The reward of a rollout; total. `schemas`: the tools' OpenAI function objects, against which calls are valid."""
    trace = attempt.trace
    if trace is None or not config.min_calls <= len(trace.calls) <= config.max_calls:
        return config.weighted({part.name: 0.0 for part in config.parts()})
    golds = (gold.answer, *gold.aliases)
    f1 = token_f1(trace.answer, golds)
    if config.form == "recall":
        return config.weighted({"accuracy": f1, "wrong_answer": 1.0 if f1 == 0 else 0.0, "format": 1.0})
    accuracy = max(float(exact_match(trace.answer, golds)), f1)
    return config.weighted({"accuracy": accuracy, "consistency": consistency(trace, schemas), "format": 1.0})


def consistency(trace: Trace, schemas: Sequence[Mapping[str, Any]]) -> float:
    """C in [0, 1]: the mean of those of its four parts that apply.

    Calls can only be valid or twice where there are calls; an answer without content words (yes, no) needs no support.
    """
    parts = [1.0 if agrees(trace.thoughts[-1], trace.answer) else 0.0]
    support = supported(trace.answer, trace.observations)
    if support is not None:
        parts.append(support)
    if trace.calls:
        parts.append(valid_calls(trace.calls, schemas))
        parts.append(0.0 if any(same_call(a, b) for a, b in combinations(trace.calls, 2)) else 1.0)
    return sum(parts) / len(parts)


def valid_calls(calls: Sequence[ToolCall], schemas: Sequence[Mapping[str, Any]]) -> float:
    """Share of `calls` [at least 1] whose tool is in `schemas` and whose arguments fit its parameters."""
    parameters = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    # An explicit empty registry: a `$ref` to elsewhere fails instead of being fetched.
    registry: Any = referencing.Registry()
    valid = 0
    for call in calls:
        if call.tool in parameters:
            validator = jsonschema.Draft202012Validator(parameters[call.tool], registry=registry)
            valid += argument_fault(validator, call.arguments) is None
    return valid / len(calls)


def supported(answer: str, observations: Sequence[str]) -> float | None:
    """Largest share of the answer's content words (SQuAD's normal form) in one observation; None if it has none."""
    words = set(normalise(answer).split()) - _EMPTY_WORDS
    if not words:
        return None
    return max((len(words & set(normalise(text).split())) / len(words) for text in observations), default=0.0)


def agrees(thought: str, answer: str) -> bool:
    """Whether the last thought does not contradict the answer (ours: a check of words, not of meaning).

    A number contradicts an answer that is a number if the thought holds numbers and this one is not among them. Text
    contradicts if the thought says "the answer is ..." and shares no word with it.
    """
    value = parse_number(answer)
    if value is not None:
        numbers = numbers_in(thought)
        return not numbers or any(abs(number) == abs(value) for number in numbers)
    stated = _STATED.findall(thought)
    if not stated:
        return True
    return bool(set(normalise(stated[-1]).split()) & set(normalise(answer).split()))
