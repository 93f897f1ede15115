"""Questions with a list of accepted answers and nothing else: Bamboogle and NQ-open.

In: {"question", "answer": [...]} (NQ-open), {"Question", "Answer"} or {"Question", "answer": [...], "id"} (Bamboogle,
as its authors and as others publish it), {"question", "golden_answers": [...]}. Out: QUESTIONS columns (without split
and source). There is no evidence in these files, so no rationale: they are for evaluation, or for a teacher.
"""

from __future__ import annotations

from typing import Any

from agentflow.sources.fields import Record, first_named, gold_answers, text_field, text_row

BAMBOOGLE = "bamboogle"
NQ_OPEN = "nq_open"


def bamboogle_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row of Bamboogle without `split` and `source`.

    Raises BadRow "no_question", "no_answer", "bad_answer", "bad_meta" or "bad_text".
    """
    return _row(BAMBOOGLE, record)


def nq_open_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row of NQ-open without `split` and `source`; raises as `bamboogle_row` does."""
    return _row(NQ_OPEN, record)


def _row(kind: str, record: Record) -> dict[str, Any]:
    question = text_field(record, first_named(record, ("question", "Question")), "no_question")
    return text_row(kind, question, gold_answers(record), "", {"source_id": record.get("id")})
