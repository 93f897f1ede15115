"""RunRecord -> the content of report.json: the numbers a program reads, without texts of models.

Shape: {recipe, wall_s, peak_rss_mb, stages, ledger, evaluation} as promised, and beside it status, evaluation_by,
hygiene, insertion, filter, training, notes and machine. Non-finite numbers become null: the file is always valid JSON.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from typing import Any

from agentflow.report.evaluation import breakdown, summarise_evaluation
from agentflow.report.hygiene import summarise_hygiene
from agentflow.report.insertion import summarise_insertion
from agentflow.report.model import Rows, RunRecord, StageRun


def summarise_run(run: RunRecord) -> dict[str, Any]:
    """Everything report.json holds, as JSON data."""
    evaluated = run.tables.get("evaluate", [])
    return finite(
        {
            "recipe": run.recipe,
            "status": run.status,
            "error": run.error,
            "started_at": run.started_at,
            "wall_s": round(run.wall_s, 3),
            "peak_rss_mb": round(run.peak_rss_mb, 1),
            "stages": [summarise_stage(stage) for stage in run.stages],
            "ledger": run.ledger.model_dump(),
            "evaluation": summarise_evaluation(evaluated),
            "evaluation_by": breakdown(evaluated),
            "hygiene": summarise_hygiene(run),
            "insertion": summarise_insertion(run),
            "filter": summarise_filter(run),
            "training": {name: summarise_log(rows) for name, rows in run.logs.items() if rows},
            "rollouts": rollout_steps(run.tables.get("grpo", [])),
            "notes": list(run.notes),
            "machine": dict(run.machine),
            "times": run.times,
        }
    )


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def summarise_stage(stage: StageRun) -> dict[str, Any]:
    """One line of `stages`. Counts are input keys; `rows_out` are rows, which may be more (k samples of a question).

    `samples` says what became of every teacher answer of `traces`. A checkpoint has no counts; its `rows_in` is what it
    says to have read (`keys_in`, or `rows_in` in `extra`).
    """
    manifest = stage.manifest
    counts = manifest.get("counts")
    ends = {end: dict((counts or {}).get(end) or {}) for end in ("dropped", "quarantined", "failed")}
    read = manifest.get("keys_in")
    fingerprint = manifest.get("fingerprint", "")
    return {
        "name": stage.name,
        "status": stage.status,
        "rows_in": int((manifest.get("extra") or {}).get("rows_in", 0) if read is None else read),
        "rows_out": int(manifest.get("rows") or 0),
        "dropped": ends["dropped"],
        "quarantined": sum(ends["quarantined"].values()),
        "failed": sum(ends["failed"].values()),
        "wall_s": round(stage.wall_s, 3),
        "peak_rss_mb": round(stage.peak_rss_mb, 1),
        "keys_out": int(counts["out"]) if counts else None,
        "quarantined_by": ends["quarantined"],
        "failed_by": ends["failed"],
        "samples": dict((manifest.get("extra") or {}).get("samples") or {}),
        "usd": (manifest.get("cost") or {}).get("usd"),
        "artifact": f"{manifest.get('stage', stage.name)}/{fingerprint}" if fingerprint else "",
    }


def has_call(row: dict[str, Any], tool: str | None = None) -> bool:
    """Whether the row's segments hold a call (to `tool`, if one is named)."""
    return any(part["kind"] == "call" and tool in (None, part["tool"]) for part in row.get("segments") or [])


def scored_rows(run: RunRecord) -> Rows:
    """Rows of FILTERED that were scored, and after them losers that were dropped, which stand among the rejects."""
    rows = [row for row in run.tables.get("loss_filter", []) if row.get("delta") is not None]
    return [*rows, *dropped_losers(run)]


def dropped_losers(run: RunRecord) -> Rows:
    """Rows of FILTERED that the loss filter scored and dropped, with the calls they had."""
    dropped = (reject["row"] for reject in run.rejects.get("loss_filter", []) if reject["status"] == "dropped")
    return [row for row in dropped if row.get("delta") is not None]


def summarise_filter(run: RunRecord) -> dict[str, Any]:
    """The loss filter's yield and what of it reaches SFT.

    `yield` = samples of which calls were kept / samples that had calls. `sft_share_with_calls` = share of the rows SFT
    reads that hold a call. Both None where nothing was filtered. `calls` and `by_tool` count calls and samples before
    and after; `deltas` are nats a token, positive where calls help, over the scored samples.
    """
    rows = run.tables.get("loss_filter", [])
    inserted = run.tables.get("tool_insertion", [])
    kept = {row["id"] for row in rows if row["n_calls"]}
    had_calls = {row["id"] for row in rows if (row["n_calls_before"] or 0) > 0}
    # Losers that were dropped stand only among the rows before the filter.
    had_calls |= {row["id"] for row in inserted if row["n_calls"]}
    tools = sorted({s["tool"] for row in [*inserted, *rows] for s in row.get("segments") or [] if s["kind"] == "call"})
    decisions: dict[str, int] = defaultdict(int)
    for row in rows:
        decisions[row["decision"]] += 1
    deltas = sorted(row["delta"] for row in scored_rows(run))
    return {
        "with_calls": len(had_calls),
        "kept": len(kept),
        "yield": round(len(kept) / len(had_calls), 4) if had_calls else None,
        "decisions": dict(decisions),
        "sft_rows": len(rows),
        "sft_share_with_calls": round(sum(1 for row in rows if row["n_calls"]) / len(rows), 4) if rows else None,
        "deltas": _spread(deltas),
        "by_tool": {tool: _tool_yield(tool, inserted, rows) for tool in tools},
    }


def _tool_yield(tool: str, inserted: Rows, rows: Rows) -> dict[str, Any]:
    before = sum(1 for row in inserted if has_call(row, tool))
    after = sum(1 for row in rows if has_call(row, tool))
    calls, calls_kept = (_calls(table, tool) for table in (inserted, rows))
    return {
        "with_calls": before or None,
        "kept": after,
        "yield": round(after / before, 4) if before else None,
        "calls": calls or None,
        "calls_kept": calls_kept,
        "calls_removed": calls - calls_kept if calls else None,
    }


def _calls(rows: Rows, tool: str) -> int:
    return sum(s["kind"] == "call" and s["tool"] == tool for row in rows for s in row.get("segments") or [])


def _spread(values: list[float]) -> dict[str, Any] | None:
    """Number, smallest, deciles 1, 5 and 9, and largest of sorted `values`; None without any."""
    if not values:
        return None
    last = len(values) - 1
    places = {"min": 0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1}
    return {"n": len(values)} | {name: round(values[round(place * last)], 4) for name, place in places.items()}


def summarise_log(rows: Rows) -> dict[str, Any]:
    """Steps and first and last loss of one training log."""
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)]
    return {
        "steps": max((int(row.get("step", 0)) for row in rows), default=0),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }


def rollout_steps(rows: Rows) -> list[dict[str, Any]]:
    """Per GRPO step: mean reward and parts over ok rollouts, share of groups with reward variance, failures.

    A group is the rollouts of one prompt: ids are "<step>-<group>-<sample>". Groups with fewer than two ok rollouts
    have no baseline and are not counted.
    """
    steps: dict[int, Rows] = defaultdict(list)
    for row in rows:
        steps[row["step"]].append(row)
    return [rollout_means(step, steps[step]) for step in sorted(steps)]


def group_of(row: dict[str, Any]) -> str:
    """The group of a rollout: the samples of one question in one step."""
    return str(row["id"]).rsplit("-", 1)[0]


def rollout_means(step: int, rows: Rows) -> dict[str, Any]:
    """One entry of `rollout_steps`, from the rollouts of that step."""
    ok = [row for row in rows if row["status"] == "ok" and row["reward"] is not None]
    groups: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[float]] = defaultdict(list)
    for row in ok:
        groups[group_of(row)].append(row["reward"])
        for part, value in reward_parts(row).items():
            parts[part].append(value)
    compared = [rewards for rewards in groups.values() if len(rewards) > 1]
    varied = sum(1 for rewards in compared if max(rewards) - min(rewards) > 1e-9)
    return {
        "step": step,
        "rollouts": len(ok),
        "failed": len(rows) - len(ok),
        "reward": round(statistics.fmean(row["reward"] for row in ok), 4) if ok else None,
        "parts": {part: round(statistics.fmean(values), 4) for part, values in sorted(parts.items())},
        "groups": len(compared),
        "groups_with_variance": varied,
        "calls": round(statistics.fmean(row["n_calls"] or 0 for row in ok), 4) if ok else None,
    }


def reward_parts(row: dict[str, Any]) -> dict[str, float]:
    """The named parts of a rollout's reward, none for a failed one; parts without a finite value are left out."""
    parts = json.loads(row.get("rewards") or "null") or {}
    return {name: float(v) for name, v in parts.items() if isinstance(v, int | float) and math.isfinite(v)}
