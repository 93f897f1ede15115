"""The cold start's review file: chosen samples out, a person's verdicts in.

One JSON object a line, so that any editor and `diff` can handle it:

    {"verdict": "", "id": "toy-1#0", "why": "calls kept by ...; number 1 of 3 by length in 'x' (19 words)",
     "question": "Mia has 48 clips ...", "reasoning": "In May she sold 48/2 = [Calculator(48/2) -> 24] 24 ...",
     "answer": "72"}

The person sets `verdict` to accept, edit or reject; with edit, `reasoning` is what is trained on. An edit may rewrite
the text and drop or move calls. It may not invent a call, change a result or the answer: those were checked, and a
person's typing is not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from datasets import Dataset
from pydantic import BaseModel, ConfigDict

from agentflow.errors import InputError
from agentflow.insertion.splice import plain_text
from agentflow.records import Segment
from agentflow.schemas import FILTERED
from agentflow.stages.cold_start import ColdStartConfig, choose
from agentflow.syntax import FoundCall, Syntax
from agentflow.toolset import syntax_for
from agentflow.training.own_samples import read_samples
from agentflow.training.recovery import PLANTED, plant_mistakes
from agentflow.training.sample_files import check_number, lines_of, segments_of

WHAT = "review file"


class ReviewLine(BaseModel):
    """One sample as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["accept", "edit", "reject", ""]
    # "" until a person has decided.
    id: str
    why: str
    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Reviewed:
    """What a person decided."""

    rows: list[dict[str, Any]]
    # Accepted and edited rows in FILTERED columns, in the file's order.
    chosen: list[dict[str, Any]]
    # One {"id", "verdict", "why"} for every line of the file.
    rejected: list[str]
    # Ids.


def select(rows: Sequence[dict[str, Any]], config: ColdStartConfig) -> Reviewed:
    """What the cold start trains on: the rows of a review or samples file if there is one, else its own choice."""
    syntax = syntax_for(config.prompt.syntax)
    if config.review is not None:
        return read_review(config.review, rows, syntax)
    if config.samples is not None:
        kept, chosen = read_samples(config.samples, syntax)
    else:
        chosen = choose(rows, config)
        by_id = {row["id"]: row for row in rows}
        kept = [by_id[sample["id"]] for sample in chosen]
    planted = plant_mistakes(kept, config.error_recovery_share, syntax)
    return Reviewed(
        [planted.get(row["id"], row) for row in kept],
        [{**sample, "why": sample["why"] + (PLANTED if sample["id"] in planted else "")} for sample in chosen],
        [],
    )


def save_rows(rows: Sequence[dict[str, Any]], out: Path) -> Path:
    """Put `rows` beside a training's checkpoints, as the Arrow dataset that a job reads; returns its folder."""
    folder = out / "trainer" / "rows"
    if folder.exists():
        shutil.rmtree(folder)  # of an attempt that was killed
    Dataset(pa.Table.from_pylist(list(rows), schema=FILTERED)).save_to_disk(str(folder))
    return folder


def render(segments: Sequence[Segment], syntax: Syntax) -> str:
    """Reasoning with its calls and results, as a person reads it and as it is trained on."""
    parts = []
    for segment in segments:
        if segment.call is not None and segment.result is not None:
            parts.append(syntax.call_text(segment.call) + syntax.result_text(segment.result.text))
        else:
            parts.append(segment.text)
    return "".join(parts)


def write_review(
    chosen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], syntax: Syntax, file: Path
) -> None:
    """Write the chosen samples for review. Raises InputError if the file is there: it may hold somebody's work."""
    by_id = {row["id"]: row for row in rows}
    lines = []
    for sample in chosen:
        row = by_id[sample["id"]]
        reasoning = render([Segment.from_row(segment) for segment in row["segments"]], syntax)
        line = ReviewLine(
            verdict="",
            id=row["id"],
            why=sample["why"],
            question=row["question"],
            reasoning=reasoning,
            answer=row["answer"],
        )
        lines.append(json.dumps(line.model_dump(), ensure_ascii=False))
    try:
        with open(file, "x", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
    except FileExistsError:
        raise InputError(f"review file {str(file)!r} is there already; move it away or give another name") from None


def read_review(file: Path, rows: Sequence[dict[str, Any]], syntax: Syntax) -> Reviewed:
    """The verdicts, applied to `rows`. Raises InputError naming file, line and what is allowed."""
    by_id = {row["id"]: row for row in rows}
    kept: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    rejected: list[str] = []
    seen: set[str] = set()
    for number, line in lines_of(file, ReviewLine, WHAT):
        where = f"review file {str(file)!r}, line {number}, row {line.id!r}"
        if line.id not in by_id or line.id in seen:
            problem = "stands twice" if line.id in seen else "is not among the loss filter's rows"
            raise InputError(f"{where}: it {problem}; write the review file anew for this run's rows")
        seen.add(line.id)
        if line.verdict == "":
            raise InputError(f"{where}: no verdict yet; set it to 'accept', 'edit' or 'reject'")
        row = by_id[line.id]
        if line.answer != row["answer"] or line.question != row["question"]:
            raise InputError(
                f"{where}: question and answer were checked and may not be changed; reject the row instead"
            )
        chosen.append({"id": line.id, "verdict": line.verdict, "why": line.why})
        if line.verdict == "reject":
            rejected.append(line.id)
        else:
            kept.append(_edited(row, line.reasoning, syntax, where) if line.verdict == "edit" else row)
    check_number(len(kept), WHAT, file, "accepts")
    return Reviewed(kept, chosen, rejected)


def _edited(row: dict[str, Any], reasoning: str, syntax: Syntax, where: str) -> dict[str, Any]:
    """`row` with the edited reasoning, its calls taken from the original by (call, result)."""
    original = [Segment.from_row(segment) for segment in row["segments"]]
    known = {(s.call.key, syntax.result_text(s.result.text)): s for s in original if s.call and s.result}

    def call(found: FoundCall, written: str) -> Segment:
        segment = known.get((found.call.key, written))
        if segment is None:
            raise InputError(
                f"{where}: {reasoning[found.start : found.end]!r} is no call of the original with its result; an edit "
                "may drop or move calls, not make or change them"
            )
        return segment

    segments = segments_of(reasoning, syntax, call, where)
    calls = sum(segment.kind == "call" for segment in segments)
    return {
        **row,
        "reasoning": plain_text(segments),
        "segments": [segment.to_row() for segment in segments],
        "n_calls": calls,
    }
