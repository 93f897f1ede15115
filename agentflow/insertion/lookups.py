"""Where a fact has to be looked up: the teacher's structured answer in, places for search calls out.

The teacher is shown a question and the numbered sentences of a solution, and answers
`{"lookups": [{"sentence": 1, "query": "Mira Tal workplace"}]}`: before the sentence with that index (from 0), this has
to be known. Not every host enforces the shape, so it is checked here, item by item: what fits is taken, what does not
is refused and counted, and an answer without a list of items is a `MalformedAnswer`. Nothing is guessed. Asking the
teacher and running the searches happen elsewhere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


Refused = Literal["lookup_no_object", "lookup_other_keys", "lookup_sentence", "lookup_query", "lookup_too_many"]
# Why an item is not taken: it is no object (or has a key twice), has other keys, names no sentence, its query is no
# text, empty, too long or no UTF-8, or there are more than allowed.


@dataclass(frozen=True)
class Lookups:
    """What was read from one answer."""

    taken: tuple[Lookup, ...]
    # In order of their places.
    refused: Mapping[Refused, int] = field(default_factory=dict)
    # Items that were not, by reason.


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
) -> Lookups:
    """The lookups of the teacher's answer `content` to `reasoning`; none taken and none refused if none is needed.

    The same query twice is taken once, at its first place; of more than `max_lookups` the first ones. A Markdown fence
    and a byte order mark around the JSON do no harm. Raises MalformedAnswer where there is no list of items to look at:
    no JSON, no object, no key "lookups" or two of them, no list, too many characters.
    """
    spans = split_sentences(reasoning)
    refused: Counter[Refused] = Counter()
    found: dict[str, Lookup] = {}
    usable: list[_Item] = []
    for raw in _items(content):
        item = _checked(raw, len(spans), max_query_chars)
        if isinstance(item, _Item):
            usable.append(item)
        else:
            refused[item] += 1
    for item in sorted(usable, key=lambda item: item.sentence):
        before = reasoning[: spans[item.sentence][0]]
        found.setdefault(item.query.casefold(), Lookup(len(before.rstrip()), item.sentence, item.query))
    taken = list(found.values())
    if len(taken) > max_lookups:
        refused["lookup_too_many"] = len(taken) - max_lookups
    return Lookups(tuple(taken[:max_lookups]), dict(refused))


def _items(content: str) -> list[Any]:
    """The list under "lookups"; MalformedAnswer where there is none."""
    if len(content) > MAX_ANSWER_CHARS:
        raise MalformedAnswer(f"lookups: {len(content)} characters, at most {MAX_ANSWER_CHARS} are read")
    try:
        answer = json.loads(_without_fence(content), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(f"lookups: no JSON ({error}); got {content[:80]!r}") from error
    items = answer.get("lookups") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise MalformedAnswer(f'lookups: no object with one list "lookups"; got {content[:80]!r}')
    return items


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """An object; None for one with a key twice: which of the two is meant cannot be known."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def _checked(raw: Any, n_sentences: int, max_query_chars: int) -> _Item | Refused:
    if not isinstance(raw, dict):
        return "lookup_no_object"
    try:
        item = _Item.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "extra_forbidden":
            return "lookup_other_keys"
        return "lookup_sentence" if first["loc"] == ("sentence",) else "lookup_query"
    query = " ".join(item.query.split())
    if not query or len(query) > max_query_chars or not _is_utf8(query):
        return "lookup_query"
    if item.sentence >= n_sentences:
        return "lookup_sentence"
    return _Item(sentence=item.sentence, query=query)


def _is_utf8(text: str) -> bool:
    """No lone surrogates: JSON can carry them, neither a request nor a file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_FENCE = re.compile(r"```[A-Za-z]*(.*)```", re.DOTALL)


def _without_fence(content: str) -> str:
    """Models like to wrap JSON in a Markdown fence although asked not to; some hosts begin with a byte order mark."""
    text = content.strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.fullmatch(text)
    return fenced[1].strip().removeprefix("\ufeff") if fenced else text
