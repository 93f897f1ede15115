"""Error-recovery traces: in some of a cold start's samples a call is first made wrongly, refused, and then made right.

In: chosen FILTERED rows. Out: some of them with one "mistake" segment. The wrong call is really refused by the
calculator and carries no loss, nor does its result; the right call behind it does. So a model learns what to do after a
refusal and not to cause one.

    ... 48/2 = [Calculator(48/2=) -> error: not allowed: '='] [Calculator(48/2) -> 24] 24 clips ...
               no loss                                        loss
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentflow.errors import ToolArgumentError
from agentflow.records import Segment, ToolCall
from agentflow.syntax import Syntax
from agentflow.tools.calculator import Calculator, evaluate
from agentflow.tools.contract import refusal

PLANTED = "; a refused call stands before its first calculator call"
MISTAKES = ("{}=", "{})", "({}", "{} in all", "{}/0")
# What small models write into a calculator call; "{}" is the right expression [O].


def plant_mistakes(rows: Sequence[dict[str, Any]], share: float, syntax: Syntax) -> dict[str, dict[str, Any]]:
    """About `share` of `rows`, by id, each with a mistake before its first calculator call.

    Chosen by a hash of the id, among those with such a call; fewer where not enough have one. Reasoning, answer and the
    number of calls stay as they are.
    """
    planted: dict[str, dict[str, Any]] = {}
    wanted = round(share * len(rows))
    for row in sorted(rows, key=lambda row: _hash(row["id"])):
        if len(planted) < wanted and (changed := _with_mistake(row, syntax)) is not None:
            planted[row["id"]] = changed
    return planted


def _with_mistake(row: Mapping[str, Any], syntax: Syntax) -> dict[str, Any] | None:
    segments = [Segment.from_row(segment) for segment in row["segments"]]
    for place, segment in enumerate(segments):
        if segment.call is not None and segment.call.tool == Calculator.name:
            mistake = _mistake(segment.call, _hash(row["id"]), syntax)
            if mistake is not None:
                segments.insert(place, mistake)
                return {**row, "segments": [segment.to_row() for segment in segments]}
    return None


def _mistake(call: ToolCall, number: int, syntax: Syntax) -> Segment | None:
    """A call like `call` that the calculator refuses; None if none of MISTAKES is refused and can be written."""
    right = call.arguments[Calculator.primary]
    for i in range(len(MISTAKES)):
        wrong = ToolCall(call.tool, {Calculator.primary: MISTAKES[(number + i) % len(MISTAKES)].format(right)})
        try:
            evaluate(wrong.arguments[Calculator.primary])
        except ToolArgumentError as error:
            result = refusal(str(error))
            if syntax.representable(wrong) and not set(result.text) & set("[]\n"):
                return Segment("mistake", call=wrong, result=result)
    return None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"mistake:{text}".encode()).digest()[:7], "big")
