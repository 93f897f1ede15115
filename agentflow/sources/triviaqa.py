"""TriviaQA records to question rows.

In: {"question", "question_id", "question_source", "answer": {"value", "aliases", ...}, "entity_pages": {"title":
[...], ...}, ...} (the hub's `mandarjoshi/trivia_qa`, `rc` and `unfiltered`, with or without context), as JSONL or
Parquet. Out: QUESTIONS columns (without split and source). TriviaQA names evidence pages and no sentences, so there is
no rationale; the pages' titles stand in `meta`. Written against the published shape, checked on hand-made rows only.
"""

from __future__ import annotations

from typing import Any

from agentflow.sources.fields import BadRow, Record, gold_answers, text_field, text_row

KIND = "triviaqa"
_HIDDEN = "<unk>"
# What the published test split has for an answer.


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; aliases are those as written (the normalised ones are the answer
    check's own matter); `meta` holds `pages` (titles of the evidence) and the answer's type.

    Raises BadRow "no_question", "no_answer" (also the test split's hidden ones), "bad_answer", "bad_context",
    "bad_meta" or "bad_text".
    """
    question = text_field(record, "question", "no_question")
    answer = record.get("answer")
    if not isinstance(answer, dict):
        raise BadRow("no_answer", f"answer is {answer!r:.200}; it is {{value, aliases, ...}}")
    value = answer.get("value")
    aliases = answer.get("aliases") or []
    if not isinstance(aliases, list | tuple):
        raise BadRow("bad_answer", f"aliases are {aliases!r:.200}; they are a list of texts")
    answers = gold_answers({"answer": [] if value in (None, _HIDDEN) else [value, *aliases]})
    meta = {
        "source_id": record.get("question_id"),
        "origin": record.get("question_source"),
        "answer_kind": answer.get("type"),
        "pages": _titles(record.get("entity_pages")),
    }
    return text_row(KIND, question, answers, "", meta)


def _titles(pages: Any) -> list[str]:
    """Titles of {"title": [...]} or of [{"title": ...}, ...], each once."""
    if pages is None:
        return []
    try:
        titles = pages["title"] if isinstance(pages, dict) else [page["title"] for page in pages]
        return list(dict.fromkeys(" ".join(title.split()) for title in titles))
    except (TypeError, LookupError, AttributeError) as error:
        raise BadRow("bad_context", f"{error}; entity_pages are {{title: [text, ...], ...}}") from error
