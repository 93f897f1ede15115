"""RunRecord -> what tool insertion did: calls by tool, and those it left out by reason. Counts of its manifest."""

from __future__ import annotations

from typing import Any

from agentflow.report.model import RunRecord

MEANINGS = {
    "lookup_no_object": "a lookup of the teacher's that is no object, or has a key twice",
    "lookup_other_keys": "a lookup of the teacher's with keys that were not asked for",
    "lookup_sentence": "a lookup of the teacher's before no sentence there is",
    "lookup_query": "a lookup of the teacher's whose query is empty, too long or no text",
    "lookup_too_many": "more lookups than max_calls",
    "unwritable": "the recipe's call syntax cannot hold it",
    "place_taken": "another strategy put a call there",
    "max_calls": "more calls than max_calls",
    "refused": "the tool refused its arguments",
}
# In the order in which it happens.


def summarise_insertion(run: RunRecord) -> dict[str, Any] | None:
    """{calls, left_out, search_results, contradictions, later_uses_of_corrected_numbers} as in the manifest's `extra`;
    None if the run has no tool_insertion or it was made before calls left out were counted.
    """
    stage = next((stage for stage in run.stages if stage.name == "tool_insertion"), None)
    extra = {} if stage is None else stage.manifest.get("extra") or {}
    names = ("calls", "left_out", "search_results", "contradictions", "later_uses_of_corrected_numbers")
    return {name: extra[name] for name in names if name in extra} if "left_out" in extra else None


def left_out_calls(run: RunRecord) -> list[dict[str, Any]]:
    """Rows {tool, reason, meaning, n} of calls left out, in the order of MEANINGS; other reasons after them."""
    order = list(MEANINGS)
    rows = [
        {"tool": tool, "reason": reason, "meaning": MEANINGS.get(reason, ""), "n": n}
        for tool, by in ((summarise_insertion(run) or {}).get("left_out") or {}).items()
        for reason, n in by.items()
    ]
    rows.sort(key=lambda row: (order.index(row["reason"]) if row["reason"] in order else len(order), row["tool"]))
    return rows
