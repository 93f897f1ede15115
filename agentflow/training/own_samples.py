"""A cold start from samples of one's own, instead of a choice from the filtered traces.

One JSON object a line; calls stand in the reasoning in the recipe's syntax, with their results:

    {"question": "Mia has 48 clips ...", "reasoning": "In May she sold 48/2 = [Calculator(48/2) -> 24] 24 ...",
     "answer": "72"}

What can be checked is: that every call can be read, and that the calculator gives the results that stand there. What a
search found, and whether the answer is right, is taken from the person. Ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentflow.errors import InputError, ToolArgumentError
from agentflow.insertion.splice import plain_text
from agentflow.records import Segment, ToolCall, ToolResult, canonical_json, sha256_text
from agentflow.rewards.parts import count_words
from agentflow.schemas import FILTERED
from agentflow.syntax import FoundCall, Syntax
from agentflow.tools.calculator import Calculator, evaluate, format_number
from agentflow.training.sample_files import check_number, lines_of, segments_of

WHAT = "samples file"


class OwnSample(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    reasoning: str
    answer: str = Field(min_length=1)


def read_samples(file: Path, syntax: Syntax) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples as rows in FILTERED columns, in the file's order, and for each {"id", "template", "words", "why"}.

    Raises InputError naming file, line and what is wrong with it: a call that cannot be read, a result that is not the
    calculator's, a sample that stands twice, none at all or more than 99.
    """
    rows: dict[str, dict[str, Any]] = {}
    chosen: list[dict[str, Any]] = []
    for number, sample in lines_of(file, OwnSample, WHAT):
        where = f"{WHAT} {str(file)!r}, line {number}"
        row = _row(sample, syntax, where)
        if row["id"] in rows:
            raise InputError(f"{where}: the same sample stands there before; leave one of them out")
        rows[row["id"]] = row
        words = count_words(row["reasoning"])
        chosen.append({"id": row["id"], "template": "", "words": words, "why": f"line {number} of the samples file"})
    check_number(len(rows), WHAT, file, "holds")
    return list(rows.values()), chosen


def _row(sample: OwnSample, syntax: Syntax, where: str) -> dict[str, Any]:
    if syntax.holds_unreadable_call(sample.reasoning):
        raise InputError(f"{where}: a call in the reasoning cannot be read; it is to be written like{_example(syntax)}")

    def call(found: FoundCall, written: str) -> Segment:
        result = syntax.read_result(written)
        if not result.strip():
            raise InputError(f"{where}: the call of {found.call.tool} has no result; write it behind the call")
        if found.call.tool == Calculator.name:
            _check_result(str(found.call.arguments[Calculator.primary]), result, where)
        return Segment("call", call=found.call, result=ToolResult(result))

    segments = segments_of(sample.reasoning, syntax, call, where)
    question_id = f"own-{sha256_text(canonical_json([sample.question, sample.answer]))[:12]}"
    return {
        **dict.fromkeys(FILTERED.names),
        "id": f"{question_id}#{sha256_text(sample.reasoning)[:8]}",
        "question_id": question_id,
        "question": sample.question,
        "answer": sample.answer,
        "aliases": [],
        "kind": "own",
        "template": "",
        "reasoning": plain_text(segments),
        "teacher": "a person",
        "segments": [segment.to_row() for segment in segments],
        "n_calls": sum(segment.kind == "call" for segment in segments),
        "contradictions": [],
    }


def _check_result(expression: str, result: str, where: str) -> None:
    try:
        computed = format_number(evaluate(expression))
    except ToolArgumentError as error:
        raise InputError(f"{where}: the calculator refuses {expression!r}: {error}") from error
    if result != computed:
        raise InputError(f"{where}: the calculator gives {computed} for {expression!r}, not {result!r}")


def _example(syntax: Syntax) -> str:
    return syntax.call_text(ToolCall(Calculator.name, {Calculator.primary: "48/2"})) + syntax.result_text("24")
