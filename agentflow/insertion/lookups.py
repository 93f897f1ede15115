"""Where a fact has to be looked up: the teacher's structured answer in, places for search calls out.

The teacher is shown a question and the numbered sentences of a solution, and answers
`{"lookups": [{"sentence": 1, "query": "Mira Tal workplace"}]}`: before the sentence with that index (from 0), this has
to be known. Such an answer is checked here before anything is done with it; an answer that does not fit is a
`MalformedAnswer`, never a guess. Asking the teacher and running the searches happen elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentflow.errors import MalformedAnswer
from agentflow.sources.sentences import sentences, split_sentences

SCHEMA_NAME = "lookups"
MAX_LOOKUPS = 8
MAX_QUERY_CHARS = 200
MAX_ANSWER_CHARS = 20_000


@dataclass(frozen=True)
class Lookup:
    """A search call to insert."""

    at: int
    # Offset in the reasoning: behind the last visible character of the sentence before, 0 for the first sentence.
    sentence: int
    # Index of the sentence that needs the fact, from 0.
    query: str


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    sentence: int = Field(ge=0, description="index of the sentence before which the fact is needed, from 0")
    query: str = Field(min_length=1, description="what to look up, a few words")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    lookups: list[_Item]


def response_format() -> dict[str, Any]:
    """The `response_format` of the request: a JSON schema named "lookups"."""
    schema = {"name": SCHEMA_NAME, "strict": True, "schema": _Answer.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}


def question_message(question: str, reasoning: str) -> str:
    """The user message: JSON with the question and the sentences of the reasoning, in order."""
    return json.dumps({"question": question, "sentences": sentences(reasoning)}, ensure_ascii=False)


def read_lookups(
    content: str, reasoning: str, *, max_lookups: int = MAX_LOOKUPS, max_query_chars: int = MAX_QUERY_CHARS
) -> list[Lookup]:
    """The lookups of the teacher's answer `content` to `reasoning`, in order of their places; [] if none is needed.

    The same query twice is taken once, at its first place. Raises MalformedAnswer for anything but the promised
    shape: no JSON, other keys, an index that is no sentence, an empty or too long query, too many lookups.
    """
    if len(content) > MAX_ANSWER_CHARS:
        raise MalformedAnswer(f"lookups: {len(content)} characters, at most {MAX_ANSWER_CHARS} are read")
    try:
        answer = _Answer.model_validate_json(_without_fence(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise MalformedAnswer(f"lookups: {where}: {first['msg']}; got {content[:80]!r}") from error
    if len(answer.lookups) > max_lookups:
        raise MalformedAnswer(f"lookups: {len(answer.lookups)} given, at most {max_lookups} allowed")
    spans = split_sentences(reasoning)
    found: dict[str, Lookup] = {}
    for item in sorted(answer.lookups, key=lambda item: item.sentence):
        query = " ".join(item.query.split())
        if not query or len(query) > max_query_chars:
            raise MalformedAnswer(f"lookups: a query of {len(query)} characters; allowed: 1 to {max_query_chars}")
        if item.sentence >= len(spans):
            raise MalformedAnswer(f"lookups: sentence {item.sentence} does not exist; allowed: 0 to {len(spans) - 1}")
        before = reasoning[: spans[item.sentence][0]]
        found.setdefault(query.casefold(), Lookup(len(before.rstrip()), item.sentence, query))
    return list(found.values())


def _without_fence(content: str) -> str:
    """Models like to wrap JSON in a Markdown fence although asked not to."""
    text = content.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text
