"""HotpotQA records to question rows; the supporting facts become the rationale, in the order one would look them up.

In: {"_id", "type", "level", "question", "answer", "supporting_facts": [[title, sentence number], ...], "context":
[[title, [sentence, ...]], ...]} (the authors' files; the hub's columnar form too). Out: QUESTIONS columns (without
split and source). A record without context (question and answer only) has no rationale. Chains are not rewritten:
they are the sentences as Wikipedia has them, one a line.
"""

from __future__ import annotations

from typing import Any

from agentflow.sources.facts import answer_last, chain, supporting_facts
from agentflow.sources.fields import Record, text_field, text_row

KIND = "hotpotqa"


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; `meta` holds type, level, `facts` (title and sentence, in the
    rationale's order) and `missing_facts` (how many supporting facts point outside the context).

    Raises BadRow "no_question", "no_answer", "bad_context" (other shape than published), "bad_meta" or "bad_text".
    """
    question = text_field(record, "question", "no_question")
    answer = text_field(record, "answer", "no_answer")
    facts, missing = supporting_facts(record)
    if record.get("type") != "comparison":
        facts = answer_last(facts, answer)
    meta = {
        "type": record.get("type"),
        "level": record.get("level"),
        "source_id": record.get("_id", record.get("id")),
        "facts": facts,
        "missing_facts": missing,
    }
    return text_row(KIND, question, [answer], chain(facts), meta)
