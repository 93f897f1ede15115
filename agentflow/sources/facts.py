"""Supporting facts: (title, sentence) pairs of a multi-hop question, from the shapes its authors publish.

In: a record with context paragraphs and pointers into them. Out: `Fact`s in the order one would look them up, the
rationale made of them (one sentence a line) and the lookups it needs. Sentences are Wikipedia's own, never rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypedDict

from agentflow.sources.fields import BadRow, Record
from agentflow.sources.problems import Lookup
from agentflow.sources.sentences import split_sentences


class Fact(TypedDict):
    """One sentence that is needed for the answer."""

    title: str  # of the paragraph it stands in
    sentence: str


def one_line(text: str) -> str:
    """`text` with every run of white space as one space: a fact is one line of a rationale."""
    return " ".join(text.split())


def chain(facts: list[Fact]) -> str:
    """The rationale made of `facts`."""
    return "\n".join(fact["sentence"] for fact in facts)


def supporting_facts(record: Record) -> tuple[list[Fact], int]:
    """Facts of a HotpotQA-shaped record in their order, without repetitions, and how many point outside the context.

    Raises BadRow "bad_context" for another shape than published.
    """
    try:
        context = dict(_pairs(record.get("context"), "sentences", "content"))
        wanted = _pairs(record.get("supporting_facts"), "sent_id")
        return collected(_pointed_at(context.get(title, ()), title, number) for title, number in wanted if context)
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        raise BadRow(
            "bad_context",
            f"{error}; context is [[title, [sentence, ...]], ...], supporting_facts [[title, number], ...]",
        ) from error


def _pointed_at(paragraph: Any, title: str, number: int) -> Fact | None:
    """Sentence `number` of `paragraph` [sentences]; None for one that is not there or has no text."""
    sentences = list(paragraph)
    sentence = one_line(sentences[number]) if 0 <= number < len(sentences) else ""
    return Fact(title=one_line(title), sentence=sentence) if sentence else None


def collected(found: Iterable[Fact | None]) -> tuple[list[Fact], int]:
    """The facts in their order without repetitions, and how many were not found (None)."""
    facts: list[Fact] = []
    missing = 0
    for fact in found:
        if fact is None:
            missing += 1
        elif fact not in facts:
            facts.append(fact)
    return facts, missing


def _pairs(value: Any, *columns: str) -> list[tuple[str, Any]]:
    """[[title, x], ...], the same as JSON text, or the hub's {"title": [...], column: [...]}, as pairs.

    Nothing for None.
    """
    if isinstance(value, str):
        value = json.loads(value)
    if value is None:
        return []
    if isinstance(value, dict):
        column = next((name for name in columns if name in value), columns[0])
        value = zip(value["title"], value[column], strict=True)
    pairs = [(title, other) for title, other in value]
    if not all(isinstance(title, str) for title, _ in pairs):
        raise ValueError("a title is not text")
    return pairs


def answer_last(facts: list[Fact], answer: str) -> list[Fact]:
    """The same facts, those of the paragraph that names the answer last: the first hop leads to it. Source: ours."""
    naming = [fact["title"] for fact in facts if answer.casefold() in fact["sentence"].casefold()]
    return sorted(facts, key=lambda fact: bool(naming) and fact["title"] == naming[-1])


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
