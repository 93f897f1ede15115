"""The local search service: Tavily `/search` in, passages ranked by BM25 out.

    POST /search   {"query": "...", "max_results": 5, ...} -> {"query", "results": [{url, title, content, score, ...}]}

It searches title and text of the invented encyclopedia, or of a JSONL file or folder of {"id", "title", "text",
"source"} (the shape of search_corpus). The same query over the same corpus gives the same bytes; equal scores are
ordered by id. Passages without any word of the query are not results.

Deviations from the real thing: one corpus and no web; `include_answer`, images, topics, dates and domains have no
effect; urls are `local://passages/<id>` and lead nowhere; a score is BM25 / (BM25 + 10), which keeps the order.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import bm25s
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agentflow.config import Frozen
from agentflow.errors import InputError
from agentflow.services.faults import Rule
from agentflow.services.middleware import ServiceMiddleware, error_response, has_key, work_done
from agentflow.sources.encyclopedia import World

MAX_QUERY_CHARACTERS = 400
# Tavily's own limit; longer queries get its 400.
_HALF_SCORE = 10.0
_SHAPE = 'a line is {"id": text, "title": text, "text": text}'


class SearchOptions(Frozen):
    """What one local search service does."""

    corpus: Path | None = None
    # JSONL file, or folder of *.jsonl files. None: the invented encyclopedia.
    world_seed: int = 0
    # Which encyclopedia, where there is no corpus.
    latency_s: float = Field(default=0.0, ge=0.0)
    # Artificial seconds per answer, not blocking other requests.
    api_key: SecretStr | None = None
    # If set, every other key is answered with 401.


class Passage(TypedDict):
    """One entry of the corpus."""

    id: str
    title: str
    text: str


class _SearchRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    query: str
    search_depth: Literal["basic", "advanced", "fast", "ultra-fast"] = "basic"
    max_results: int = Field(default=5, ge=0, le=20)
    include_raw_content: bool | Literal["markdown", "text"] = False
    include_usage: bool = False


def tavily_error(status: int, message: str, code: str | None) -> dict[str, Any]:
    """An error as Tavily words it (it has no machine-readable code)."""
    return {"detail": {"error": message}}


class PassageIndex:
    """BM25 (bm25s, Lucene variant, k1 1.5, b 0.75) over title and text, English stop words left out."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        # In order of id, so that a stable sort by score breaks ties by id.
        self.passages = sorted(passages, key=lambda passage: passage["id"])
        if not self.passages:
            raise InputError(f"the search corpus has no passage; {_SHAPE}")
        texts = [f"{passage['title']}\n{passage['text']}" for passage in self.passages]
        self._bm25 = bm25s.BM25()
        self._bm25.index(_tokens(texts), show_progress=False)

    def search(self, query: str, limit: int) -> list[tuple[Passage, float]]:
        """Up to `limit` passages with their BM25 scores, best first."""
        words = self._bm25.get_tokens_ids(sorted(_tokens([query])[0]))
        if not words:
            return []
        scores = self._bm25.get_scores_from_ids(words)
        hits = np.flatnonzero(scores > 0)
        best = hits[np.argsort(-scores[hits], kind="stable")][:limit]
        return [(self.passages[int(index)], float(scores[index])) for index in best]


def _tokens(texts: list[str]) -> list[list[str]]:
    tokens = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
    assert isinstance(tokens, list)
    return tokens


def load_corpus(options: SearchOptions) -> list[Passage]:
    """The passages to search. Raises InputError naming file and line of anything that is not a passage."""
    if options.corpus is None:
        return [Passage(id=p["id"], title=p["title"], text=p["text"]) for p in World(options.world_seed).passages()]
    path = options.corpus
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"corpus folder {str(path)!r} has no *.jsonl file; {_SHAPE}")
    passages: dict[str, Passage] = {}
    for file in files:
        for where, passage in _read_passages(file):
            other = passages.setdefault(passage["id"], passage)
            if other != passage:
                raise InputError(
                    f"{where} has id {passage['id']!r} again with another text; ids are unique in a corpus"
                )
    return list(passages.values())


def _read_passages(file: Path) -> Iterable[tuple[str, Passage]]:
    try:
        with open(file, encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{file}:{number}"
                    yield where, _passage(line, where)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read corpus {str(file)!r}: {error}; give a JSONL file in UTF-8 or a folder of them"
        ) from error


def _passage(line: str, where: str) -> Passage:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_SHAPE}") from error
    match row:
        case {"id": str(id_), "title": str(title), "text": str(text)} if id_:
            return Passage(id=id_, title=title, text=text)
    raise InputError(f"{where} is not a passage: {line.strip()[:100]!r}; {_SHAPE}")


def create_app(options: SearchOptions, rules: list[Rule] | None = None) -> ASGIApp:
    """The search service as an ASGI app, its index built. Raises InputError if the corpus is wrong."""
    search = _Search(options)
    app = Starlette(
        routes=[Route("/search", search.search, methods=["POST"])],
        exception_handlers={HTTPException: _http_error},
    )
    return ServiceMiddleware(app, service="search", error_body=tavily_error, rules=rules or [])


class _Search:
    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self.api_key = options.api_key.get_secret_value() if options.api_key else None
        self.index = PassageIndex(load_corpus(options))

    async def search(self, request: Request) -> Response:
        if not has_key(request, self.api_key):
            return error_response(tavily_error, 401, "Unauthorized: missing or invalid API key.")
        body = await request.body()
        try:
            asked = _SearchRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return error_response(tavily_error, 400, f"Invalid request: {where}: {first['msg']}")
        if not asked.query.strip():
            return error_response(tavily_error, 400, "Query is missing.")
        if len(asked.query) > MAX_QUERY_CHARACTERS:
            message = f"Query is too long. Max query length is {MAX_QUERY_CHARACTERS} characters."
            return error_response(tavily_error, 400, message)
        if self.options.latency_s:
            await asyncio.sleep(self.options.latency_s)
        hits = self.index.search(asked.query, asked.max_results)
        work_done(request, asked.query, "hits" if hits else "no_hits")
        return JSONResponse(self._answer(asked, body, hits))

    def _answer(self, asked: _SearchRequest, body: bytes, hits: list[tuple[Passage, float]]) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "query": asked.query,
            "follow_up_questions": None,
            "answer": None,
            "images": [],
            "results": [_result(passage, score, bool(asked.include_raw_content)) for passage, score in hits],
            # The configured latency, not a measured one: the same question gives the same bytes.
            "response_time": self.options.latency_s,
            "request_id": hashlib.sha256(body).hexdigest()[:32],
        }
        if asked.include_usage:
            answer["usage"] = {"credits": 2 if asked.search_depth == "advanced" else 1}
        return answer


def _result(passage: Passage, score: float, raw: bool) -> dict[str, Any]:
    return {
        "url": f"local://passages/{quote(passage['id'], safe='')}",
        "title": passage["title"],
        "content": passage["text"],
        "score": round(score / (score + _HALF_SCORE), 6),
        "raw_content": passage["text"] if raw else None,
    }


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(tavily_error, error.status_code, f"{request.method} {request.url.path}: {error.detail}")
