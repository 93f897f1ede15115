"""The parts of a raw record that become columns: question, gold answers, meta. A part that cannot is a `BadRow`.

In: one record of a published data set. Out: plain, storable text. What a data set calls its parts is that data set's
matter; what counts as a usable text is decided here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow.metrics.answers import holds_words
from agentflow.records import canonical_json
from agentflow.sources.problems import question_id

Record = dict[str, Any]


class BadRow(Exception):
    """A record that is no usable question; becomes a quarantined Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        # Stable word: "no_question", "no_answer", "bad_answer", "bad_text", "bad_context", "bad_meta", "unanswerable".
        self.detail = detail


def text_field(record: Record, name: str, reason: str) -> str:
    """The stripped text of a field. Raises BadRow `reason` if there is none, "bad_text" if it cannot be stored."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(reason, f"{name} is {value!r:.200}; a row needs it as non-empty text")
    return storable(value.strip(), name)


def first_named(record: Record, names: Sequence[str]) -> str:
    """The first of `names` the record has, else the first: republished sets write "Question" for "question"."""
    return next((name for name in names if name in record), names[0])


def gold_answers(record: Record, names: Sequence[str] = ("answer", "Answer", "golden_answers")) -> list[str]:
    """Gold answers, the first one the answer and the others its aliases [at least 1]; no two are the same text.

    A field may hold one text or a list of texts; `answer_aliases` is added where the record has it. What is punctuation
    alone (NQ-open has an alias ",") is left out beside an answer with words. Raises BadRow "no_answer" if no text is
    left, "bad_answer" for anything but text, "bad_text" if one cannot be stored.
    """
    name = first_named(record, names)
    given = [*_as_list(record.get(name), name), *_as_list(record.get("answer_aliases"), "answer_aliases")]
    found = list(dict.fromkeys(storable(text.strip(), name) for text in given if text.strip()))
    if not found:
        raise BadRow("no_answer", f"{name} is {record.get(name)!r:.200}; a row needs at least one answer as text")
    return [text for text in found if holds_words(text)] or found


def _as_list(value: Any, name: str) -> list[str]:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    for one in values:
        if not isinstance(one, str):
            raise BadRow("bad_answer", f"{name} holds {one!r:.200}; an answer is text")
    return list(values)


def storable(text: str, name: str) -> str:
    """`text` itself. Raises BadRow "bad_text" if it holds a lone surrogate, which no Arrow file can carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"{name} holds a lone surrogate at character {error.start}") from error
    return text


def text_row(kind: str, question: str, answers: Sequence[str], rationale: str, meta: dict[str, Any]) -> dict[str, Any]:
    """A question with a text answer in QUESTIONS columns, without `split` and `source`. `answers` as `gold_answers`."""
    return {
        "id": question_id(kind, question),
        "question": question,
        "answer": answers[0],
        "aliases": list(answers[1:]),
        "answer_type": "text",
        "kind": kind,
        "template": "",
        "rationale": rationale,
        "meta": meta_text(meta),
    }


def meta_text(meta: dict[str, Any]) -> str:
    """`meta` as the JSON of its column. Raises BadRow "bad_meta" for NaN, bytes or dates (a Parquet file has them)."""
    try:
        text = canonical_json(meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("bad_meta", f"{error}; what a row keeps beside its question must be JSON") from error
    return storable(text, "meta")
