"""HotpotQA records to question rows; the supporting facts become the rationale, in the order one would look them up.

In: {"_id", "type", "level", "question", "answer", "supporting_facts": [[title, sentence number], ...], "context":
[[title, [sentence, ...]], ...]} (the authors' files; the hub's columnar form too). Out: QUESTIONS columns (without
split and source). A record without context (question and answer only) has no rationale. Chains are not rewritten:
they are the sentences as Wikipedia has them, one a line.
"""

from __future__ import annotations

from typing import Any

from agentflow.records import canonical_json
from agentflow.sources.problems import Lookup, question_id
from agentflow.sources.readers import BadRow, Record, storable, text_field
from agentflow.sources.sentences import split_sentences

KIND = "hotpotqa"


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; `meta` holds type, level, `facts` (title and sentence, in the
    rationale's order) and `missing_facts` (how many supporting facts point outside the context).

    Raises BadRow "no_question", "no_answer", "bad_context" (other shape than published) or "bad_text".
    """
    question = text_field(record, "question", "no_question")
    answer = text_field(record, "answer", "no_answer")
    facts, missing = _facts(record)
    if record.get("type") != "comparison":
        facts = _answer_last(facts, answer)
    meta = {
        "type": record.get("type"),
        "level": record.get("level"),
        "source_id": record.get("_id", record.get("id")),
        "facts": [{"title": title, "sentence": sentence} for title, sentence in facts],
        "missing_facts": missing,
    }
    return {
        "id": question_id(KIND, question),
        "question": question,
        "answer": answer,
        "aliases": [],
        "answer_type": "text",
        "kind": KIND,
        "template": "",
        "rationale": "\n".join(sentence for _, sentence in facts),
        "meta": storable(canonical_json(meta), "meta"),
    }


def lookups(meta: dict[str, Any]) -> list[Lookup]:
    """Where the recorded rationale needs a lookup: before the first sentence of each title, with the title as query.

    `sentence` counts as `split_sentences(rationale)` does.
    """
    found: list[Lookup] = []
    asked: set[str] = set()
    position = 0
    for fact in meta.get("facts", []):
        if fact["title"] not in asked:
            asked.add(fact["title"])
            found.append({"sentence": position, "query": fact["title"]})
        # Facts stand on lines of their own, so each starts a sentence; one fact may be several.
        position += len(split_sentences(fact["sentence"]))
    return found


def _facts(record: Record) -> tuple[list[tuple[str, str]], int]:
    """(title, sentence) of the supporting facts in their order, without repetitions, and how many were not found."""
    try:
        context = dict(_pairs(record.get("context"), "sentences"))
        wanted = _pairs(record.get("supporting_facts"), "sent_id")
        facts: list[tuple[str, str]] = []
        missing = 0
        for title, number in wanted if context else ():
            sentences = list(context.get(title, ()))
            fact = (
                " ".join(title.split()),
                " ".join(sentences[number].split()) if 0 <= number < len(sentences) else "",
            )
            if not fact[1]:
                missing += 1
            elif fact not in facts:
                facts.append(fact)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise BadRow(
            "bad_context",
            f"{error}; context is [[title, [sentence, ...]], ...], supporting_facts [[title, number], ...]",
        ) from error
    return facts, missing


def _pairs(value: Any, second: str) -> list[tuple[str, Any]]:
    """[[title, x], ...] or the hub's {"title": [...], second: [...]} as pairs; nothing for None."""
    if value is None:
        return []
    items = zip(value["title"], value[second], strict=True) if isinstance(value, dict) else value
    pairs = [(title, other) for title, other in items]
    if not all(isinstance(title, str) for title, _ in pairs):
        raise ValueError("a title is not text")
    return pairs


def _answer_last(facts: list[tuple[str, str]], answer: str) -> list[tuple[str, str]]:
    """The same facts, those of the paragraph that names the answer last: the first hop leads to it (ours)."""
    naming = [title for title, sentence in facts if answer.casefold() in sentence.casefold()]
    return sorted(facts, key=lambda fact: bool(naming) and fact[0] == naming[-1])
