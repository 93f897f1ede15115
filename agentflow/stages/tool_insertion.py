"""tool_insertion: TRACES -> TOOL_TRACES.

Splices tool calls into the reasoning, before the text that needs their results (METHODS A.3).

Two strategies behind one function: `equations` (calculator calls before the results of equations) and `lookups` (the
teacher marks where a fact is needed and writes the query; the search runs). Removing the calls gives back the reasoning
byte for byte.

    "In May she sold 48/2 = 24 clips."  ->  "In May she sold 48/2 =" [Calculator(48/2) -> 24] " 24 clips."
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow.clients.search import SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.config import Frozen, Where
from agentflow.errors import MalformedAnswer, ServiceFailure, ToolFailure
from agentflow.insertion.equations import find_equations
from agentflow.insertion.lookups import question_message, read_lookups, response_format
from agentflow.insertion.splice import Insertion, splice
from agentflow.records import Outcomes, Reject, ToolCall
from agentflow.rendering import PromptConfig
from agentflow.syntax import Syntax
from agentflow.tools.contract import ToolBox
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.waiting import all_settled

LOOKUP_SYSTEM = (
    "You get a question and the numbered sentences of a solution as JSON. Say before which sentences a fact has to be "
    'looked up, and with which search query. Answer as JSON: {"lookups": [{"sentence": <index>, "query": <text>}]}'
)


class ToolInsertionConfig(Frozen):
    """Which calls are inserted where."""

    equations: bool = True
    lookups: Literal["text_answers", "all", "none"] = "text_answers"
    # Which questions the teacher marks lookups for.
    contradicted: Literal["drop", "keep"] = "drop"
    # What happens to a row one of whose equations the calculator contradicts; "keep" inserts no call there.
    max_calls: int = Field(8, ge=1)
    # Further calls of a row are left out.
    teacher: TeacherConfig = TeacherConfig()
    search: SearchConfig = SearchConfig()
    tools: ToolsConfig = ToolsConfig()
    prompt: PromptConfig = PromptConfig()
    # Its syntax decides which calls can be written at all.
    edition: str = "1"
    batch_size: Annotated[int, Where()] = Field(64, ge=1)
    failure_budget: int = Field(0, ge=0)


async def insert_batch(
    rows: Sequence[dict[str, Any]], config: ToolInsertionConfig, teacher: TeacherClient | None, toolbox: ToolBox
) -> Outcomes:
    """Insert calls into `rows`; a row that needs none stays as it is.

    `teacher` may be None where no lookups are marked.
    """
    results = await all_settled(_insert(row, config, teacher, toolbox) for row in rows)
    kept = [result for result in results if isinstance(result, dict)]
    rejects = [result for result in results if isinstance(result, Reject)]
    return Outcomes(kept, rejects, len(rows), len(kept))


async def _insert(
    row: dict[str, Any], config: ToolInsertionConfig, teacher: TeacherClient | None, toolbox: ToolBox
) -> dict[str, Any] | Reject:
    planned: list[tuple[int, ToolCall]] = []
    if config.equations and "Calculator" in toolbox:
        equations = find_equations(row["reasoning"])
        wrong = [equation for equation in equations if not equation.agrees]
        if wrong and config.contradicted == "drop":
            detail = f"{wrong[0].expression} is not {wrong[0].stated}"
            return Reject(row["id"], "dropped", "contradicted", detail, row)
        planned += [(e.insert_at, ToolCall("Calculator", {"expression": e.expression})) for e in equations if e.agrees]
    try:
        if wants_lookups(row, config) and teacher is not None:
            lookups = await _lookups(row, teacher, config)
            if isinstance(lookups, Reject):
                return lookups
            planned += lookups
        insertions = await _run(planned, config, toolbox)
    except ServiceFailure as failure:
        if failure.stops_run:
            raise
        return Reject(row["id"], "quarantined" if failure.row_fault else "failed", failure.kind, str(failure), row)
    except ToolFailure as failure:
        return Reject(row["id"], "failed", failure.kind, str(failure), row)
    segments = splice(row["reasoning"], insertions)
    return {**row, "segments": [segment.to_row() for segment in segments], "n_calls": len(insertions)}


def wants_lookups(row: dict[str, Any], config: ToolInsertionConfig) -> bool:
    """Whether the teacher is asked where `row` needs a lookup."""
    if "Search" not in config.tools.names or config.lookups == "none":
        return False
    return config.lookups == "all" or row["answer_type"] == "text"


async def _lookups(
    row: dict[str, Any], teacher: TeacherClient, config: ToolInsertionConfig
) -> list[tuple[int, ToolCall]] | Reject:
    content = question_message(row["question"], row["reasoning"])
    messages = [{"role": "system", "content": LOOKUP_SYSTEM}, {"role": "user", "content": content}]
    answer = await teacher.complete(messages, response_format=response_format())
    try:
        lookups = read_lookups(answer.content, row["reasoning"], max_lookups=config.max_calls)
    except MalformedAnswer as error:
        # Paid and stored: asking again would get the same answer from the ledger.
        return Reject(row["id"], "quarantined", "malformed_lookups", str(error), row)
    return [(lookup.at, ToolCall("Search", {"query": lookup.query})) for lookup in lookups]


async def _run(planned: list[tuple[int, ToolCall]], config: ToolInsertionConfig, toolbox: ToolBox) -> list[Insertion]:
    """Run the planned calls at once; calls the syntax cannot write and calls the tool refuses are left out."""
    syntax: Syntax = syntax_for(config.prompt.syntax)
    writable = [(at, call) for at, call in sorted(planned, key=lambda p: p[0]) if syntax.representable(call)][
        : config.max_calls
    ]
    results = await all_settled(toolbox.run(call) for _, call in writable)
    return [
        Insertion(at, call, result)
        for (at, call), result in zip(writable, results, strict=True)
        if result.error is None
    ]
