"""Rows as the stages pass them on, from the project's own generators: questions, tool traces, filtered rows."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from agentflow.insertion.equations import find_equations
from agentflow.insertion.splice import Insertion, splice
from agentflow.records import ToolCall, ToolResult
from agentflow.schemas import FILTERED
from agentflow.sources.source import GeneratedSource, load_questions
from agentflow.stages.traces import recorded_traces


def question_rows(n: int = 4, *, two_hop: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Training questions in QUESTIONS columns [n + two_hop], and as many arithmetic test questions."""
    source = GeneratedSource(seed=seed, arithmetic_train=n, two_hop_train=two_hop, test_arithmetic=n)
    return load_questions(source).rows


def tool_trace_rows(n: int = 4, *, seed: int = 0) -> list[dict[str, Any]]:
    """Arithmetic traces in TOOL_TRACES columns with a calculator call before every result [n]."""
    train = [row for row in question_rows(n, seed=seed) if row["split"] == "train"]
    return [with_calls(trace) for trace in recorded_traces(train).rows]


def with_calls(trace: dict[str, Any]) -> dict[str, Any]:
    """`trace` with the calls that its equations call for."""
    insertions = [
        Insertion(e.insert_at, ToolCall("Calculator", {"expression": e.expression}), ToolResult(e.stated))
        for e in find_equations(trace["reasoning"])
    ]
    segments = splice(trace["reasoning"], insertions)
    spliced = [segment.to_row() for segment in segments]
    return {**trace, "segments": spliced, "n_calls": len(insertions), "contradictions": [], "lookups_key": ""}


def filtered_rows(n: int = 4, *, seed: int = 0) -> list[dict[str, Any]]:
    """The same in FILTERED columns, all calls kept [n]."""
    losses = {"loss_plain": 2.0, "loss_with": 1.0, "loss_empty": None, "delta": 1.0, "n_common": 20}
    score = {"tool": "Calculator", "kept": True, **losses}
    return [
        {
            **row,
            "decision": "kept",
            **losses,
            "n_calls_before": row["n_calls"],
            "call_scores": [score] * row["n_calls"],
        }
        for row in tool_trace_rows(n, seed=seed)
    ]


def save(rows: list[dict[str, Any]], folder: Any, schema: Any = FILTERED) -> Any:
    """`rows` as the Arrow dataset that training jobs read; returns the folder."""
    import pyarrow as pa

    Dataset(pa.Table.from_pylist(rows, schema=schema)).save_to_disk(str(folder))
    return folder
