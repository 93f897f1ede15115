"""The three strategies behind `strategy.Strategy`: equations, the teacher's lookups, and calls sampled from a model.

In: a trace. Out: its plan. What each needs from outside (a teacher, sampled calls) is given when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from agentflow.errors import CutAnswer, FilteredAnswer, MalformedAnswer, ServiceFailure, ToolArgumentError
from agentflow.insertion.contradictions import contradictions, correct, moved
from agentflow.insertion.equations import find_equations
from agentflow.insertion.lookups import question_message, read_lookups, response_format
from agentflow.insertion.strategy import Plan, PlannedCall
from agentflow.records import Reject, ToolCall
from agentflow.tools.calculator import evaluate

LOOKUP_SYSTEM = (
    "You get a question and the numbered sentences of a solution as JSON. Say before which sentences a fact has to be "
    'looked up, and with which search query. Answer as JSON: {"lookups": [{"sentence": <index>, "query": <text>}]}'
)


class Equations:
    """Calculator calls before the results of equations (paper A's f for GSM8K [P]).

    `contradicted` says what becomes of a wrong result [O]: "drop" rejects the row, "keep" leaves it and inserts no call
    there, "correct" replaces it by the calculator's (see `contradictions`; where that is impossible, the row goes).
    """

    def __init__(self, contradicted: Literal["drop", "correct", "keep"]) -> None:
        self._contradicted = contradicted

    def wants(self, row: dict[str, Any]) -> bool:
        return True

    async def plan(self, row: dict[str, Any]) -> Plan | Reject:
        text = row["reasoning"]
        equations = find_equations(text)
        found = contradictions(text, equations)
        changed: str | None = None
        if found and self._contradicted != "keep":
            corrected = correct(text) if self._contradicted == "correct" else None
            if corrected is None:
                detail = "\n".join(f"{one.expression} is not {one.stated}" for one in found)
                return Reject(row["id"], "dropped", "contradicted", detail, row)
            changed, found = corrected
            equations = find_equations(changed)
        calls = [
            PlannedCall(equation.insert_at, ToolCall("Calculator", {"expression": equation.expression}))
            for equation in equations
            if equation.agrees
        ]
        return Plan(tuple(calls), changed, tuple(found))


class Completion(Protocol):
    """What a teacher client answers (clients.teacher.TeacherAnswer)."""

    @property
    def content(self) -> str: ...
    @property
    def ledger_key(self) -> str: ...


class Teacher(Protocol):
    """What is needed of a teacher client (clients.teacher.TeacherClient)."""

    async def complete(self, messages: Any, *, sample_index: int = 0, response_format: Any = None) -> Completion: ...


class TeacherLookups:
    """Searches where the teacher says that a fact is needed; structured output, checked before it is used.

    An answer that cannot be read is asked for again, `attempts` times in all: as another sample, since the ledger
    would give the same one for ever.
    """

    def __init__(
        self, teacher: Teacher, kinds: Literal["text_answers", "all"], max_lookups: int, attempts: int
    ) -> None:
        self._teacher, self._kinds, self._max_lookups, self._attempts = teacher, kinds, max_lookups, attempts

    def wants(self, row: dict[str, Any]) -> bool:
        return wants_lookups(row, self._kinds)

    async def plan(self, row: dict[str, Any]) -> Plan | Reject:
        content = question_message(row["question"], row["reasoning"])
        messages = [{"role": "system", "content": LOOKUP_SYSTEM}, {"role": "user", "content": content}]
        unread: list[ServiceFailure] = []
        for sample in range(self._attempts):
            try:
                answer = await self._teacher.complete(messages, sample_index=sample, response_format=response_format())
            except (CutAnswer, FilteredAnswer) as failure:
                if not unread:
                    raise
                unread.append(failure)  # the row's reject must name the answers before it, too
                continue
            try:
                found = read_lookups(answer.content, row["reasoning"], max_lookups=self._max_lookups)
            except MalformedAnswer as failure:
                failure.ledger_key = answer.ledger_key
                unread.append(failure)
                continue
            searches = [(one.at, ToolCall("Search", {"query": one.query})) for one in found.taken]
            calls = tuple(PlannedCall(at, call, paid=True) for at, call in searches)
            left_out: dict[tuple[str, str], int] = {("Search", reason): n for reason, n in found.refused.items()}
            return Plan(calls, ledger_key=answer.ledger_key, left_out=left_out)
        asked = {**row, "ledger_keys": [failure.ledger_key for failure in unread]}
        detail = "\n".join(dict.fromkeys(map(str, unread)))
        return Reject(row["id"], "quarantined", "malformed_lookups", detail, asked)


def wants_lookups(row: dict[str, Any], kinds: Literal["text_answers", "all", "none"]) -> bool:
    """Whether the teacher is asked where `row` needs a lookup."""
    return kinds == "all" or (kinds == "text_answers" and row["answer_type"] == "text")


class Sampled:
    """Calls that the scoring model itself would write (Toolformer, section 2 [P]).

    `candidates` holds, by row id, the places in order of p(call) and for each the distinct calls sampled there, the
    most frequent first. One call a place is taken: the first whose arguments the calculator accepts [O]; Toolformer
    runs all of them and lets its filter choose, ours would keep every alternative that passes. An equal call at a
    second place is left out. Places are those of the trace as it came in; corrections since then (the row's
    `contradictions`) move them along.
    """

    def __init__(self, candidates: Mapping[str, Sequence[tuple[int, Sequence[ToolCall]]]]) -> None:
        self._candidates = candidates

    def wants(self, row: dict[str, Any]) -> bool:
        return bool(self._candidates.get(row["id"]))

    async def plan(self, row: dict[str, Any]) -> Plan | Reject:
        planned: dict[str, PlannedCall] = {}
        for place, calls in self._candidates[row["id"]]:
            at = moved(place, row.get("contradictions") or ())
            usable = next((call for call in calls if _may_run(call)), None)
            if usable is not None and at is not None and at <= len(row["reasoning"]):
                planned.setdefault(usable.key, PlannedCall(at, usable))
        return Plan(tuple(planned.values()))


def _may_run(call: ToolCall) -> bool:
    if call.tool != "Calculator":
        return True
    try:
        evaluate(str(call.arguments.get("expression", "")))
    except ToolArgumentError:
        return False
    return True
