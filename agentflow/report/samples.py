"""Table rows -> the few texts worth reading: traces with their calls, rollouts per step, rejects, answers side by side.

The marking of calls is for the eye only; nothing is counted or scored from it. Rollouts say themselves who wrote what;
in completions of evaluations, which do not, whatever looks like a call is marked as one. Which rows are shown
depends on their ids and decisions alone, so the same run shows the same samples.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

from agentflow.report.evaluation import breakdown, ordered_models
from agentflow.report.model import Limits, Rows, RunRecord
from agentflow.report.summary import dropped_losers, group_of, reward_parts, rollout_means, scored_rows
from agentflow.report.visible import cap

_AROUND = 60
# Characters of text shown on either side of a call.
_MARKUP = 900
# Characters that a rollout takes on the page beside its text.

# Every repetition is bounded: the text may be anything a model wrote.
_MARKS = re.compile(
    r"(?P<call>\[[A-Za-z_]\w{0,63}\([^\[\]\n]{0,500}\) -> [^\[\]\n]{0,2000}\]|<tool_call>.{0,2000}?</tool_call>)"
    r"|(?P<result><(?P<tag>tool_response|observation|tool_result)>.{0,4000}?</(?P=tag)>)"
    r"|(?P<frame></?(?:think|answer)>)",
    re.DOTALL,
)
_FRAME = re.compile(r"(</?(?:think|answer)>)")


class Part(NamedTuple):
    """A piece of shown text and its CSS class: "text", "call", "result" or "frame"."""

    role: str
    text: str


def mark_calls(text: str | None, limit: int) -> list[Part]:
    """A completion cut to `limit` characters, its calls, results and tags told apart."""
    shown = cap(text, limit)
    parts: list[Part] = []
    end = 0
    for match in _MARKS.finditer(shown):
        if match.start() > end:
            parts.append(Part("text", shown[end : match.start()]))
        role = next(name for name in ("call", "result", "frame") if match.group(name))
        parts.append(Part(role, match.group()))
        end = match.end()
    if end < len(shown):
        parts.append(Part("text", shown[end:]))
    return parts


def mark_spans(row: dict[str, Any], limit: int) -> list[Part]:
    """A rollout's completion cut to `limit` characters: calls and tools' results by its spans, and layout tags."""
    text, parts = row["completion"], []
    for span in row["spans"]:
        piece = text[span["begin"] : min(span["end"], limit)]
        if span["role"] in ("call", "result"):
            parts.append(Part(span["role"], piece))
        else:
            parts += [Part("frame" if _FRAME.fullmatch(one) else "text", one) for one in _FRAME.split(piece)]
    if len(text) > limit:
        parts.append(Part("text", cap(text, limit)[limit:]))
    return [part for part in parts if part.text]


def trace_samples(run: RunRecord) -> list[dict[str, Any]]:
    """Samples spread over decision and kind, dropped ones too; removed calls are shown as they were before."""
    filtered = [*run.tables.get("loss_filter", []), *({**row, "decision": "dropped"} for row in dropped_losers(run))]
    before = {row["id"]: row for row in run.tables.get("tool_insertion", [])}
    rows = filtered or list(before.values())
    buckets: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        buckets[(row.get("decision") or "inserted", row["kind"])].append(row)
    picked: Rows = []
    for rank in range(run.limits.traces):
        picked += [bucket[rank] for _, bucket in sorted(buckets.items(), reverse=True) if rank < len(bucket)]
    return [_trace(row, before.get(row["id"]), run.limits) for row in picked[: run.limits.traces]]


def _trace(row: dict[str, Any], before: dict[str, Any] | None, limits: Limits) -> dict[str, Any]:
    removed = row.get("decision") in ("calls_removed", "dropped")
    source = before if removed and before else row
    budget = limits.text
    segments: Rows = []
    for segment in source.get("segments") or [{"kind": "text", "text": row["reasoning"]}]:
        if budget <= 0:
            segments.append({"kind": "text", "text": " …"})
            break
        segments.append({**segment, "removed": removed, "inside": _inside(segment.get("arguments"))})
        budget -= len(segment.get("text") or "") + len(segment.get("result") or "")
    return {"row": row, "segments": segments, "decision": row.get("decision") or "inserted"}


def judged_calls(run: RunRecord) -> dict[str, Rows]:
    """The calls that made the text behind them easiest to predict ("most"), and those that did least ("least")."""
    before = {row["id"]: row for row in run.tables.get("tool_insertion", [])}
    found: Rows = []
    for row in scored_rows(run):
        segments = (before.get(row["id"]) or row).get("segments") or []
        places = [i for i, segment in enumerate(segments) if segment["kind"] == "call"]
        scores = row.get("call_scores") or []
        if len(scores) != len(places):
            continue  # the rows before the filter are not at hand
        for place, score in zip(places, scores, strict=True):
            if score["delta"] is not None:
                found.append(_judged(row, segments, place, score))
    found.sort(key=lambda one: (-one["delta"], one["id"], one["place"]))
    most = found[: run.limits.filter_examples]
    return {"most": most, "least": found[len(most) :][-run.limits.filter_examples :][::-1]}


def _judged(row: dict[str, Any], segments: Rows, place: int, score: dict[str, Any]) -> dict[str, Any]:
    call = segments[place]
    return {
        "id": row["id"],
        "place": place,
        "tool": call["tool"],
        "inside": _inside(call["arguments"]),
        "result": call["result"],
        "before": _end_of(segments[place - 1]["text"]) if place else "",
        "after": _begin_of(segments[place + 1]["text"]) if place + 1 < len(segments) else "",
        "delta": score["delta"],
        "kept": score["kept"],
    }


def _begin_of(text: str) -> str:
    """The first words of `text`, with an ellipsis where it goes on."""
    return text if len(text) <= _AROUND else text[:_AROUND].rsplit(" ", 1)[0] + " …"


def _end_of(text: str) -> str:
    """The last words of `text`, with an ellipsis where it began earlier."""
    return text if len(text) <= _AROUND else "… " + text[-_AROUND:].split(" ", 1)[-1]


def _inside(arguments: str | None) -> str:
    """What to show between a call's brackets: the value of an only argument, otherwise the JSON as it is."""
    try:
        values = json.loads(arguments or "{}")
    except (ValueError, RecursionError):  # shown, not judged
        return arguments or ""
    if isinstance(values, dict) and len(values) == 1:
        return str(next(iter(values.values())))
    return arguments or ""


def rollout_samples(run: RunRecord) -> dict[str, Any]:
    """All rollouts by GRPO step and group (one question), best first: {steps, total, left_out}.

    Where their texts are too long for a page (`limits.rollouts`), whole steps are left out, evenly, and counted.
    """
    by_step: dict[int, Rows] = defaultdict(list)
    for row in run.tables.get("grpo", []):
        by_step[row["step"]].append(row)
    sizes = {step: sum(_on_page(row, run.limits) for row in rows) for step, rows in by_step.items()}
    shown = _evenly(sizes, run.limits.rollouts)
    steps = [_rollout_step(step, by_step[step], run.limits) for step in shown]
    return {"steps": steps, "total": sum(map(len, by_step.values())), "left_out": len(by_step) - len(shown)}


def _on_page(row: dict[str, Any], limits: Limits) -> int:
    """About how many characters of HTML a rollout takes."""
    return min(len(row["completion"] or ""), limits.text) + _MARKUP


def _evenly(sizes: dict[int, int], room: int) -> list[int]:
    """All steps of `sizes` in order, or every n-th and the last, with the smallest n for which they fit into `room`."""
    ordered = sorted(sizes)
    for every in range(1, len(ordered) + 1):
        chosen = sorted({*ordered[::every], *ordered[-1:]})
        if sum(sizes[step] for step in chosen) <= room:
            return chosen
    return sorted({*ordered[:1], *ordered[-1:]})


def _rollout_step(step: int, rows: Rows, limits: Limits) -> dict[str, Any]:
    groups: dict[str, Rows] = defaultdict(list)
    for row in sorted(rows, key=lambda row: _natural(row["id"])):
        groups[group_of(row)].append(row)
    views = [
        {
            "question": members[0].get("question") or members[0]["prompt"],
            "question_id": members[0]["question_id"],
            "gold": members[0]["gold"],
            "rollouts": [
                {"row": row, "parts": reward_parts(row), "text": mark_spans(row, limits.text)}
                for row in sorted(members, key=lambda row: math.inf if row["reward"] is None else -row["reward"])
            ],
        }
        for members in groups.values()
    ]
    return {**rollout_means(step, rows), "questions": views}


def _natural(value: str) -> list[tuple[int, str]]:
    """Sort key in which "2-10" stands after "2-9"."""
    return [(int(piece), "") if piece.isascii() and piece.isdigit() else (-1, piece) for piece in value[:80].split("-")]


def reject_samples(run: RunRecord) -> list[dict[str, Any]]:
    """Per stage and reason: the count and the first rejected rows by key."""
    result = []
    for stage, rows in run.rejects.items():
        groups: dict[tuple[str, str], Rows] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["key"]):
            groups[(row["status"], row["reason"])].append(row)
        for (status, reason), members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
            shown = members[: run.limits.rejects_per_reason]
            result.append({"stage": stage, "status": status, "reason": reason, "n": len(members), "rows": shown})
    return result


def answer_samples(run: RunRecord) -> list[dict[str, Any]]:
    """Questions with every model's answer; those on which the models disagree come first."""
    rows = run.tables.get("evaluate", [])
    best = {(c["model"], c["prompt_style"], c["split"], c["kind"]) for c in breakdown(rows) if c["best"]}
    questions: dict[str, Rows] = defaultdict(list)
    for row in rows:
        if (row["model"], row["prompt_style"], row["split"], row["kind"]) in best:
            questions[row["id"]].append(row)

    def interest(item: tuple[str, Rows]) -> tuple[int, str]:
        return (-len({row["correct"] for row in item[1]}), item[0])

    order = ordered_models(rows)
    result = []
    for _, members in sorted(questions.items(), key=interest)[: run.limits.answers]:
        members = sorted(members, key=lambda row: order.index(row["model"]))
        views = [{"row": row, "text": mark_calls(row["completion"], run.limits.text)} for row in members]
        result.append({"question": members[0], "answers": views})
    return result
