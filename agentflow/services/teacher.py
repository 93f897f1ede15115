"""The local teacher: OpenAI chat completions in, R1-style reasoning and an answer out.

    POST /v1/chat/completions    the last user message is the question
    GET  /v1/models

A generated or known question gives `reasoning_content` with the solution and `content` "Answer: 72"; an unknown one
gives "I do not know this question." and "Answer: unknown". Where `response_format` asks for the JSON schema named
"lookups", the last user message is {"question": ..., "sentences": [...]} and the content is
{"lookups": [{"sentence": 1, "query": "Havel Orsk birthplace"}]}: which sentence needs a fact, looked up before it.

Deviations from the real thing: no streaming, one choice, tokens are pieces of up to six letters, every model name
is accepted, sampling parameters other than `seed` and `max_tokens` have no effect.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from time import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agentflow.config import Frozen
from agentflow.services.faults import Rule
from agentflow.services.knowledge import Knowledge
from agentflow.services.middleware import ServiceMiddleware, error_response, has_key, work_done

MODEL = "local-teacher"
UNKNOWN_REASONING = "I do not know this question."
UNKNOWN_ANSWER = "unknown"
_TOKEN = re.compile(r"\s*(?:[^\W\d_]{1,6}|\d{1,3}|[^\w\s]|_)|\s+")
_TOKENS_PER_MESSAGE = 4
_ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class TeacherOptions(Frozen):
    """What one local teacher does."""

    wrong_rate: float = Field(default=0.1, ge=0.0, le=1.0)
    # Share of generated questions answered wrongly; known ones are answered as recorded.
    seed: int = 0
    # Which samples are the wrong ones.
    known: Path | None = None
    # JSONL of recorded solutions, see `knowledge`.
    world_seed: int = 0
    # The invented encyclopedia that two-hop questions are about.
    latency_s: float = Field(default=0.0, ge=0.0)
    # Artificial seconds per answer, not blocking other requests.
    api_key: SecretStr | None = None
    # If set, every other key is answered with 401.


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str = Field(min_length=1)
    messages: list[_Message] = Field(min_length=1)
    seed: int | None = None
    user: str | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: dict[str, Any] | None = None

    @property
    def question(self) -> str | None:
        """The last user message, None if there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), None)

    @property
    def wants_lookups(self) -> bool:
        schema = (self.response_format or {}).get("json_schema")
        return isinstance(schema, dict) and schema.get("name") == "lookups"


def openai_error(status: int, message: str, code: str | None) -> dict[str, Any]:
    """An error as the OpenAI API words it."""
    default = "server_error" if status >= 500 else "invalid_request_error"
    kind = "insufficient_quota" if code == "insufficient_quota" else _ERROR_TYPES.get(status, default)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def create_app(options: TeacherOptions, rules: list[Rule] | None = None) -> ASGIApp:
    """The teacher as an ASGI app. Raises InputError if the known file is wrong."""
    teacher = _Teacher(options)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", teacher.complete, methods=["POST"]),
            Route("/v1/models", teacher.models, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    return ServiceMiddleware(app, service="teacher", error_body=openai_error, rules=rules or [])


class _Teacher:
    def __init__(self, options: TeacherOptions) -> None:
        self.options = options
        self.api_key = options.api_key.get_secret_value() if options.api_key else None
        self.knowledge = Knowledge(world_seed=options.world_seed, known=options.known)

    async def models(self, request: Request) -> Response:
        if not has_key(request, self.api_key):
            return _wrong_key()
        card = {"id": MODEL, "object": "model", "created": 0, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [card]})

    async def complete(self, request: Request) -> Response:
        if not has_key(request, self.api_key):
            return _wrong_key()
        body = await request.body()
        try:
            chat = _ChatRequest.model_validate_json(body)
        except ValidationError as error:
            return error_response(openai_error, 400, _what_is_wrong(error))
        question = chat.question
        if question is None:
            return error_response(
                openai_error, 400, "messages has none of role 'user'; the last of them is the question"
            )
        if self.options.latency_s:
            await asyncio.sleep(self.options.latency_s)
        label, reasoning, content = self._answer(chat, question)
        work_done(request, question, label)
        return JSONResponse(_completion(chat, body, reasoning, content))

    def _answer(self, chat: _ChatRequest, question: str) -> tuple[str, str | None, str]:
        """Label, reasoning and content of the answer to one request."""
        if chat.wants_lookups:
            return "lookups", None, json.dumps({"lookups": self._lookups(question)}, ensure_ascii=False)
        sample = chat.user if chat.seed is None else str(chat.seed)
        label, solution = self.knowledge.answer(
            question, wrong_rate=self.options.wrong_rate, seed=self.options.seed, sample=sample or ""
        )
        if solution is None:
            return label, UNKNOWN_REASONING, f"Answer: {UNKNOWN_ANSWER}"
        return label, solution.rationale, f"Answer: {solution.answer}"

    def _lookups(self, message: str) -> list[Any]:
        try:
            asked = json.loads(message)
        except (ValueError, RecursionError):
            return []  # not the agreed shape: a real model would find nothing to look up either
        match asked:
            case {"question": str(question), "sentences": list(given)} if all(isinstance(item, str) for item in given):
                return list(self.knowledge.lookups(question, given))
        return []


def _completion(chat: _ChatRequest, body: bytes, reasoning: str | None, content: str) -> dict[str, Any]:
    limit = chat.max_completion_tokens or chat.max_tokens
    thoughts, words = _TOKEN.findall(reasoning or ""), _TOKEN.findall(content)
    finish = "stop"
    if limit is not None and len(thoughts) + len(words) > limit:
        # Reasoning comes first, as with the real ones: a small limit leaves an empty content.
        finish = "length"
        thoughts, words = thoughts[:limit], words[: max(0, limit - len(thoughts))]
    prompt_tokens = sum(len(_TOKEN.findall(message.text)) + _TOKENS_PER_MESSAGE for message in chat.messages)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words), "refusal": None}
    if reasoning is not None:
        message["reasoning_content"] = "".join(thoughts)
    return {
        "id": f"chatcmpl-{hashlib.sha256(body).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": int(time()),
        "model": chat.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(thoughts) + len(words),
            "total_tokens": prompt_tokens + len(thoughts) + len(words),
            "completion_tokens_details": {"reasoning_tokens": len(thoughts)},
        },
        "system_fingerprint": "agentflow-local",
    }


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "body"
    if where == "stream":
        return "stream is not supported by the local teacher; leave it out"
    if where == "n":
        return "n must be 1 for the local teacher; send one request a sample, each with its own seed"
    return f"invalid request: {where}: {first['msg']}"


def _wrong_key() -> Response:
    return error_response(openai_error, 401, "Incorrect API key provided.", "invalid_api_key")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(openai_error, error.status_code, f"{request.method} {request.url.path}: {error.detail}")
