"""From rollouts to rows for fine-tuning: what a policy got right, and the traces of what it could not solve.

In: ROLLOUTS rows and their questions, FILTERED rows. Out: FILTERED rows. A rollout becomes a row only if the row
renders to the rollout's text character for character, so what is trained on is what was verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentflow.insertion.splice import plain_text
from agentflow.records import Segment, ToolResult
from agentflow.rendering import completion_spans, parse_completion
from agentflow.rewards.conditional import verdict_of
from agentflow.syntax import Syntax

Rows = Sequence[dict[str, Any]]
_COPIED = ("question", "answer", "aliases", "answer_type", "kind", "template")
_UNSCORED = {"loss_plain": None, "loss_with": None, "loss_empty": None, "delta": None, "n_common": None}


def is_right(row: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether a rollout that counts ends in the question's answer, without having been given its solution's begin."""
    verdict = verdict_of(row["answer"], question["answer"], question["aliases"], question["answer_type"])
    return row["status"] == "ok" and not row["given"] and verdict == "right"


def verified_rows(
    rollouts: Rows, questions: Mapping[str, dict[str, Any]], syntax: Syntax, per_question: int
) -> list[dict[str, Any]]:
    """The policy's own solutions as FILTERED rows, at most `per_question` different ones each, the shortest first."""
    right = [row for row in rollouts if is_right(row, questions[row["question_id"]])]
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(right, key=lambda row: (len(row["completion"].split()), row["id"])):
        of_question = chosen.setdefault(row["question_id"], {})
        if len(of_question) < per_question and row["completion"] not in of_question:
            solution = solution_row(row, questions[row["question_id"]], syntax)
            if solution is not None:
                of_question[row["completion"]] = solution
    return [solution for question_id in sorted(chosen) for solution in chosen[question_id].values()]


def solution_row(rollout: Mapping[str, Any], question: Mapping[str, Any], syntax: Syntax) -> dict[str, Any] | None:
    """One rollout as a FILTERED row; None if its text is not of the form that rows render to."""
    completion = parse_completion(rollout["completion"], syntax)
    if completion.think is None or completion.answer is None:
        return None
    segments: list[Segment] = []
    place = 0
    for found in syntax.find_calls(completion.think):
        result = ToolResult(syntax.read_result(completion.think[found.call_end : found.end]))
        if completion.think[place : found.start]:
            segments.append(Segment("text", text=completion.think[place : found.start]))
        segments.append(Segment("call", call=found.call, result=result))
        place = found.end
    if completion.think[place:]:
        segments.append(Segment("text", text=completion.think[place:]))
    try:
        spans = completion_spans(segments, completion.answer, syntax)
    except (KeyError, ValueError):  # a call that this syntax can read but not write
        return None
    if "".join(span.text for span in spans) != rollout["completion"]:
        return None
    calls = sum(segment.kind == "call" for segment in segments)
    return {
        "id": rollout["id"],
        "question_id": rollout["question_id"],
        **{name: question[name] for name in _COPIED},
        # As the policy wrote it: "72.0" is right too, and is what it is trained on.
        "answer": completion.answer,
        "reasoning": plain_text(segments),
        "response": f"Answer: {completion.answer}",
        "predicted": completion.answer,
        "teacher": "policy",
        "ledger_key": "",
        "segments": [segment.to_row() for segment in segments],
        "n_calls": calls,
        "contradictions": [],
        "lookups_key": "",
        "decision": "kept" if calls else "no_calls",
        **_UNSCORED,
        "n_calls_before": calls,
        "call_scores": [],
    }


def unsolved_rows(rollouts: Rows, questions: Mapping[str, dict[str, Any]], traces: Rows) -> list[dict[str, Any]]:
    """The traces of questions that were tried and never solved; one whose rollouts all failed was not tried."""
    tried = {row["question_id"] for row in rollouts if row["status"] == "ok"}
    solved = {row["question_id"] for row in rollouts if is_right(row, questions[row["question_id"]])}
    return [row for row in traces if row["question_id"] in tried - solved]
