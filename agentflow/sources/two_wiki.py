"""2WikiMultiHopQA records to question rows: HotpotQA's shape, plus evidence triples.

In: {"_id", "type", "question", "answer", "context", "supporting_facts", "evidences": [[subject, relation, object],
...]} (the authors' files, a line each; the hub's columnar and JSON-text forms too), or {"Question", "answer": [...]}.
Out: QUESTIONS columns (without split and source). The authors' alias file (`id_aliases.json`) is not read.
"""

from __future__ import annotations

import json
from typing import Any

from agentflow.sources.facts import answer_last, chain, supporting_facts
from agentflow.sources.fields import BadRow, Record, first_named, gold_answers, text_field, text_row

KIND = "2wikimultihopqa"
_COMPARED = ("comparison", "bridge_comparison")
# Two chains side by side: their order in the file is the order to look them up.


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; `meta` as HotpotQA's plus `evidences` [triples].

    Raises BadRow "no_question", "no_answer", "bad_answer", "bad_context" (other shape than published), "bad_meta" or
    "bad_text".
    """
    question = text_field(record, first_named(record, ("question", "Question")), "no_question")
    answers = gold_answers(record)
    facts, missing = supporting_facts(record)
    if record.get("type") not in _COMPARED:
        facts = answer_last(facts, answers[0])
    meta = {
        "type": record.get("type"),
        "source_id": record.get("_id", record.get("id")),
        "facts": facts,
        "missing_facts": missing,
        "evidences": _triples(record.get("evidences")),
    }
    return text_row(KIND, question, answers, chain(facts), meta)


def _triples(value: Any) -> list[list[str]]:
    """[[subject, relation, object], ...], also from JSON text or from the hub's {"fact", "relation", "entity"}."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, dict):
            value = zip(value["fact"], value["relation"], value["entity"], strict=True)
        triples = [list(triple) for triple in value or ()]
        if not all(len(triple) == 3 and all(isinstance(part, str) for part in triple) for triple in triples):
            raise ValueError("a triple is not three texts")
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise BadRow("bad_context", f"{error}; evidences are [[subject, relation, object], ...]") from error
    return triples
