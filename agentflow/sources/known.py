"""Rows for the local teacher's `known` file: question rows in, {question, rationale, answer, lookups} out.

Real questions are answered there with the data set's own solution: GSM8K's worked solution, supporting
facts of multi-hop sets with a lookup before each paragraph. Rows without a rationale are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agentflow.sources.facts import lookups


def known_rows(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{question, rationale, answer, lookups}` of every QUESTIONS row that records a solution, in order."""
    rows = []
    for row in questions:
        if row["rationale"]:
            meta = json.loads(row["meta"] or "{}")
            found = lookups(meta) if "facts" in meta else meta.get("lookups", [])
            rows.append(
                {"question": row["question"], "rationale": row["rationale"], "answer": row["answer"], "lookups": found}
            )
    return rows
