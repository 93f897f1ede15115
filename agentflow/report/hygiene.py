"""RunRecord -> what the questions stage left out because another question says the same: counts and examples.

The counts are those of the artifact's manifest, the examples its rejected rows; nothing is searched for here.
"""

from __future__ import annotations

from typing import Any

from agentflow.report.model import RunRecord

MEANINGS = {
    "leak_exact": "the same words as an evaluation question",
    "leak_ngram": "a run of words of an evaluation question",
    "leak_number_swap": "an evaluation question with other numbers",
    "leak_near": "most of its word pairs are those of an evaluation question",
    "duplicate": "the same text as another question",
    "near_duplicate": "most of its word pairs are those of another question",
}
# In the order in which the page shows them, gravest first.


def summarise_hygiene(run: RunRecord) -> dict[str, Any] | None:
    """{checked, evaluation, against, dropped}, numbers of questions; None if the run has no questions stage or it was
    made before hygiene was recorded.
    """
    stage = next((stage for stage in run.stages if stage.name == "questions"), None)
    found = None if stage is None else (stage.manifest.get("extra") or {}).get("hygiene")
    return dict(found) if isinstance(found, dict) else None


def hygiene_samples(run: RunRecord) -> list[dict[str, Any]]:
    """Per reason that occurred: its meaning, the count, and the first questions by key with what they resemble."""
    rows = sorted(run.rejects.get("questions", []), key=lambda row: row["key"])
    groups = []
    for reason, meaning in MEANINGS.items():
        members = [row for row in rows if row["reason"] == reason]
        if members:
            shown = [
                {**row, "question": row["row"].get("question", "")} for row in members[: run.limits.rejects_per_reason]
            ]
            groups.append({"reason": reason, "meaning": meaning, "n": len(members), "rows": shown})
    return groups
