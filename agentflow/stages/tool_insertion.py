"""tool_insertion: TRACES -> TOOL_TRACES.

Splices tool calls into the reasoning, before the text that needs their results (METHODS A.3).

Which calls, and where, is decided by strategies behind one interface (`insertion.strategy`): equations, lookups that
the teacher marks, calls sampled from the scoring model. Removing the calls gives back the reasoning byte for byte.

    "In May she sold 48/2 = 24 clips."  ->  "In May she sold 48/2 =" [Calculator(48/2) -> 24] " 24 clips."
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow.artifacts.tables import split_bad_rows
from agentflow.clients.search import SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.config import Frozen, Where
from agentflow.errors import ServiceFailure, ToolFailure
from agentflow.insertion import strategies
from agentflow.insertion.choosing import LeftOut, choose, without_taken
from agentflow.insertion.contradictions import Contradiction
from agentflow.insertion.splice import Insertion, splice
from agentflow.insertion.strategy import PlannedCall, Strategy
from agentflow.records import Outcomes, Reject, ToolCall, ToolResult, canonical_json
from agentflow.rendering import PromptConfig
from agentflow.schemas import TOOL_TRACES
from agentflow.scrubbing import ScrubConfig, scrub_segments
from agentflow.tools.contract import ToolBox
from agentflow.tools.leaks import Subject
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.waiting import all_settled

Candidates = Mapping[str, Sequence[tuple[int, Sequence[ToolCall]]]]
# By row id: places in order of p(call), each with the distinct calls sampled there (models.call_sampling).

_MARKUP = (
    "the reasoning holds a tool call in the recipe's syntax: it would be trained on, with a result that no tool gave"
)
_LEFT_OUT = "left_out/"
# What counts of calls that are in no row begin with (`Outcomes.counts`).


class SamplingConfig(Frozen):
    """How calls are sampled from the scoring model (Toolformer, section 2 and appendix A [P]).

    For the calculator Toolformer uses k 20, tau_s 0, m 10 (from memory, unverified), with 0.5 in its filter.
    """

    tau_s: float = Field(0.05, ge=0, lt=1)
    # Only places with p(call) > tau_s.
    k: int = Field(5, ge=1)
    # The k best of them.
    m: int = Field(5, ge=1)
    # Calls sampled at each place.
    tools: tuple[Literal["Calculator", "Search"], ...] = ("Calculator", "Search")
    # Calls to others are left out.
    temperature: float = Field(1.0, gt=0)
    max_call_tokens: int = Field(40, ge=4)
    # A call that is not complete by then is given up.
    n_examples: int = Field(2, ge=0, le=2)
    # Worked examples before the question: without them no model writes calls.
    seed: int = 0


class ToolInsertionConfig(Frozen):
    """Which calls are inserted where."""

    equations: bool = True
    lookups: Literal["text_answers", "all", "none"] = "text_answers"
    # Which questions the teacher marks lookups for.
    lookup_attempts: int = Field(3, ge=1)
    # Answers paid for at most until one can be read; items of it that do not fit cost only themselves.
    sampled: SamplingConfig | None = None
    # Also calls that the base model itself would write; the base model is then an input of the stage.
    contradicted: Literal["drop", "correct", "keep"] = "drop"
    # What happens to a row one of whose equations the calculator contradicts: it goes; or the stated result is replaced
    # by the calculator's (later uses of the wrong number stay as they are); or nothing, and no call is inserted there.
    # What was corrected or kept stands in column `contradictions`.
    max_calls: int = Field(8, ge=1)
    # Further calls of a row are left out.
    teacher: TeacherConfig = TeacherConfig()
    search: SearchConfig = SearchConfig()
    tools: ToolsConfig = ToolsConfig()
    prompt: PromptConfig = PromptConfig()
    # Its syntax decides which calls can be written at all.
    edition: str = "1"
    # Of what the teacher is asked.
    search_edition: str | None = None
    # Of the searches; empty: `edition`. Searches can so be asked anew while the teacher's answers are replayed.
    scrub: ScrubConfig = ScrubConfig()
    # Personal data removed from queries and results of searches before the commit. Off by default.
    batch_size: Annotated[int, Where()] = Field(64, ge=1)
    failure_budget: int = Field(0, ge=0)


async def insert_batch(
    rows: Sequence[dict[str, Any]],
    config: ToolInsertionConfig,
    teacher: TeacherClient | None,
    toolbox: ToolBox,
    candidates: Candidates | None = None,
) -> Outcomes:
    """Insert calls into `rows`; a row that needs none stays as it is.

    `teacher` may be None where no lookups are marked, `candidates` where none were sampled.
    """
    ways = _strategies(config, teacher, toolbox, candidates)
    # As many rows as keep the slots of both services busy; a row that waits for neither is done at once.
    slots = max(config.teacher.concurrency, config.search.concurrency)
    counted = [LeftOut() for _ in rows]
    work = (_insert(row, ways, config, toolbox, left_out) for row, left_out in zip(rows, counted, strict=True))
    results = await all_settled(work, slots + 2 * min(slots, 64))
    # Queries and results come from paid answers, whose JSON carries texts that no Arrow file can.
    kept, unstorable = split_bad_rows([result for result in results if isinstance(result, dict)], TOOL_TRACES)
    rejects = [*(result for result in results if isinstance(result, Reject)), *unstorable]
    ids = {row["id"] for row in kept}
    total = sum((left_out for row, left_out in zip(rows, counted, strict=True) if row["id"] in ids), LeftOut())
    counts = {f"{_LEFT_OUT}{tool}/{reason}": number for (tool, reason), number in sorted(total.items())}
    return scrub_segments(Outcomes(kept, rejects, len(rows), len(kept), counts), config.scrub)


def _strategies(
    config: ToolInsertionConfig, teacher: TeacherClient | None, toolbox: ToolBox, candidates: Candidates | None
) -> list[Strategy]:
    """In the order in which they are applied."""
    ways: list[Strategy] = []
    if config.equations and "Calculator" in toolbox:
        ways.append(strategies.Equations(config.contradicted))
    if teacher is not None and config.lookups != "none" and "Search" in config.tools.names:
        ways.append(strategies.TeacherLookups(teacher, config.lookups, config.max_calls, config.lookup_attempts))
    if candidates is not None:
        ways.append(strategies.Sampled(candidates))
    return ways


async def _insert(
    row: dict[str, Any], ways: Sequence[Strategy], config: ToolInsertionConfig, toolbox: ToolBox, left_out: LeftOut
) -> dict[str, Any] | Reject:
    syntax = syntax_for(config.prompt.syntax)
    if syntax.find_calls(row["reasoning"]) or syntax.holds_unreadable_call(row["reasoning"]):
        return Reject(row["id"], "quarantined", "markup", _MARKUP, row)
    planned: list[PlannedCall] = []
    contradictions: list[Contradiction] = []
    lookups_key = ""
    now = row
    try:
        for way in ways:
            if not way.wants(now):
                continue
            plan = await way.plan(now)
            if isinstance(plan, Reject):
                return plan
            if plan.reasoning is not None:
                now = {**now, "reasoning": plan.reasoning, "contradictions": plan.contradictions}
            left_out.update(plan.left_out)
            planned += without_taken(plan.calls, planned, left_out)
            contradictions += plan.contradictions
            lookups_key = lookups_key or plan.ledger_key
        chosen = choose(planned, syntax, config.max_calls, left_out)
        insertions = await _run(now, chosen, toolbox, left_out)
    except ServiceFailure as failure:
        if failure.stops_run:
            raise
        status: Literal["failed", "quarantined"] = "quarantined" if failure.row_fault else "failed"
        asked = {**row, "lookups_key": failure.ledger_key}  # searches fail as ToolFailure
        return Reject(row["id"], status, failure.kind, str(failure), asked)
    if isinstance(insertions, Reject):
        return insertions
    return {
        **now,
        "segments": [segment.to_row() for segment in splice(now["reasoning"], insertions)],
        "n_calls": len(insertions),
        "contradictions": [one.to_row() for one in contradictions],
        "lookups_key": lookups_key,
    }


def wants_lookups(row: dict[str, Any], config: ToolInsertionConfig) -> bool:
    """Whether the teacher is asked where `row` needs a lookup."""
    return "Search" in config.tools.names and strategies.wants_lookups(row, config.lookups)


async def _run(
    row: dict[str, Any], chosen: Sequence[PlannedCall], toolbox: ToolBox, left_out: LeftOut
) -> list[Insertion] | Reject:
    """Run the chosen calls at once; those that the tool refuses are left out.

    Where a tool's infrastructure failed the row failed, and its detail has a line for every such call; where the
    service refuses the call for ever the row is quarantined.
    """
    subject = Subject(row["question"], (row["answer"], *row["aliases"]))
    called = await all_settled(_called(one, toolbox, subject) for one in chosen)
    failures = [(one.call, result) for one, result in called if isinstance(result, ToolFailure)]
    if failures:
        lines = [f"{call.tool} {canonical_json(call.arguments)}: {failure}" for call, failure in failures]
        again = [failure for _, failure in failures if not failure.row_fault]
        status: Literal["failed", "quarantined"] = "failed" if again else "quarantined"
        causes = (failure.__cause__ for _, failure in failures)
        asked = {**row, "ledger_keys": [cause.ledger_key for cause in causes if isinstance(cause, ServiceFailure)]}
        return Reject(row["id"], status, (again or [failures[0][1]])[0].kind, "\n".join(lines), asked)
    answered = [(one, result) for one, result in called if isinstance(result, ToolResult)]
    left_out.update((one.call.tool, "refused") for one, result in answered if result.error is not None)
    return [Insertion(one.at, one.call, result) for one, result in answered if result.error is None]


async def _called(
    planned: PlannedCall, toolbox: ToolBox, subject: Subject
) -> tuple[PlannedCall, ToolResult | ToolFailure]:
    try:
        return planned, await toolbox.run(planned.call, subject)
    except ToolFailure as failure:
        return planned, failure


def insertion_counts(outcomes: Outcomes) -> dict[str, Any]:
    """What the manifest says beside the counts of rows: calls by tool, calls left out of kept rows by tool and reason,
    search results that leak or were blocked, and contradictions by what was done about them.
    """
    calls = [segment for row in outcomes.rows for segment in row["segments"] if segment["kind"] == "call"]
    found = [one for row in outcomes.rows for one in row["contradictions"] or ()]
    actions = Counter(one["action"] for one in found)
    actions["dropped rows"] = sum(reject.reason == "contradicted" for reject in outcomes.rejects)
    return {
        "calls": dict(sorted(Counter(segment["tool"] for segment in calls).items())),
        "left_out": _left_out(outcomes.counts),
        "search_results": {name: sum(segment[name] or 0 for segment in calls) for name in ("leaks", "blocked")},
        "contradictions": {name: count for name, count in sorted(actions.items()) if count},
        "later_uses_of_corrected_numbers": sum(one["later_uses"] for one in found if one["action"] == "corrected"),
    }


def _left_out(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """{tool: {reason: calls}}."""
    found: dict[str, dict[str, int]] = {}
    for name, number in sorted(counts.items()):
        if name.startswith(_LEFT_OUT):
            tool, _, reason = name.removeprefix(_LEFT_OUT).partition("/")
            found.setdefault(tool, {})[reason] = number
    return found
