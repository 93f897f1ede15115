"""The teacher: chat completions of any OpenAI-compatible endpoint, each paid once and kept in the ledger.

In: messages. Out: reasoning and content with the key under which they are stored. Through the real `openai` client
with its aiohttp transport; its own retries are off, because every request must be reserved, stored and metered.
Does not judge answers and does not stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import aiohttp
import httpx2
import openai
from pydantic import Field

from agentflow.clients.classify import cap_answer, from_status, from_transport, read_json, refusal
from agentflow.clients.completion import read_completion, tokens_used
from agentflow.clients.connections import fewer_collections, room_for
from agentflow.clients.endpoint import (
    LOCAL_KEY,
    NO_KEY,
    WITHOUT_SCHEMAS,
    ServiceConfig,
    key_for,
    limit_key,
    split_url,
)
from agentflow.clients.pace import Pace
from agentflow.config import Frozen, LocalFile, Where
from agentflow.errors import ConfigError, CutAnswer, FilteredAnswer, RequestRejected, ServiceFailure
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal
from agentflow.records import canonical_json

Message = dict[str, Any]
_CONNECT_TIMEOUT_S = 10.0
_CONNECT_EACH_S = 0.01
# More for each request in flight: a process that opens thousands of connections notices late that they are open.
TOKENS_PER_MESSAGE = 16
# More than any known chat template adds around one message.


class LocalTeacher(Frozen):
    """Settings of the local stand-in; part of the identity only while `base_url` is empty."""

    wrong_rate: float = Field(default=0.1, ge=0, le=1)
    # Share of generated questions answered wrongly.
    seed: int = 0
    # Which ones.
    known: Annotated[Path | None, LocalFile()] = None
    # JSONL of questions with recorded solutions.
    world_seed: int = 0
    # Which invented encyclopedia the two-hop questions are about.
    latency_ms: Annotated[float, Where()] = Field(default=0, ge=0)
    # Artificial milliseconds per answer.


class TeacherConfig(ServiceConfig):
    """Which model is asked, and how. Prices, keys, limits and addresses are `Where`; the host is `provider`."""

    local: Annotated[LocalTeacher, Where()] = LocalTeacher()
    model: str = Field(default="stand-in-r1", min_length=1)
    temperature: float | None = Field(default=0.6, ge=0)
    # None leaves it out (models that refuse it).
    top_p: float | None = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=2048, ge=1)
    # Reasoning included; an answer that reaches it is cut, paid and not used.
    system: str = ""
    # System prompt put before messages that bring none; empty: none.
    send_seed: bool | None = None
    # Send the sample index as `seed`. None: only to the stand-in, which would repeat itself otherwise.
    structured: Literal["json_schema", "json_object", "none"] | None = None
    # How structured answers are asked for: by schema, as any JSON object, or in words only. None: json_object from
    # hosts known to refuse schemas (DeepSeek), json_schema from all others. What comes back is checked in any case.
    default_key_env: ClassVar[str] = "OPENAI_API_KEY"
    usd_per_million_in: Annotated[float | None, Where()] = Field(default=None, ge=0)
    usd_per_million_out: Annotated[float | None, Where()] = Field(default=None, ge=0)
    # List price. None: unknown, counted as 0, and refused together with a budget on a real host.
    timeout_s: Annotated[float, Where()] = Field(default=300, gt=0)
    # For one whole request and answer.
    requests_per_minute: Annotated[int | None, Where()] = Field(default=None, ge=1)
    tokens_per_minute: Annotated[int | None, Where()] = Field(default=None, ge=1)
    # What the key allows, prompt and answer tokens together. They hold over all processes that share a ledger; None: no
    # limit of ours.


@dataclass(frozen=True)
class TeacherAnswer:
    """One usable completion."""

    content: str
    reasoning: str | None
    # From `reasoning_content`, or from inline <think> tags; None if the model gave none.
    finish_reason: str
    ledger_key: str
    paid: bool
    # False if it came from the ledger.
    tokens_in: int
    tokens_out: int
    # As the service counted them; 0 if it did not say.
    fetched_at: str = ""
    # ISO 8601 UTC instant of the answer.


class TeacherClient:
    """Asks one teacher within one event loop. Make it with `open`; it may serve any number of concurrent calls."""

    def __init__(
        self, config: TeacherConfig, ledger: Ledger, client: openai.AsyncOpenAI, *, edition: str, secrets: list[str]
    ) -> None:
        self.config = config
        self._ledger = ledger
        self._client = client
        self._edition = edition
        self._secrets = secrets
        self._provider = config.provider
        self._pace = Pace("teacher", config, ledger, limit_key(self._provider, client.api_key))

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: TeacherConfig, ledger: Ledger, *, base_url: str | None = None, edition: str = "1"
    ) -> AsyncIterator[TeacherClient]:
        """A client, closed at the end of the block.

        `base_url` is the address where the local stand-in listens and is used only while `config.base_url` is empty.
        Raises MissingKeyError without the key of a real host, ConfigError without an address or a needed price. In
        replay modes nothing is asked, so neither key nor address is needed.
        """
        address, key = _place(config, ledger, base_url)
        http_client = _http_client(config)
        secrets = [] if key in (LOCAL_KEY, NO_KEY) else [key]
        client = openai.AsyncOpenAI(
            api_key=key, base_url=address, http_client=http_client, max_retries=0, timeout=http_client.timeout
        )
        async with client:
            with room_for(config.concurrency, service="teacher"), fewer_collections(config.concurrency):
                yield cls(config, ledger, client, edition=edition, secrets=secrets)

    def call(
        self, messages: Sequence[Message], *, sample_index: int = 0, response_format: dict[str, Any] | None = None
    ) -> PaidCall:
        """The paid call that `complete` with the same arguments makes; its `key` is for `Ledger.prefetch`."""
        config = self.config
        texts = [dict(message) for message in messages]
        if config.system and not any(message.get("role") == "system" for message in texts):
            texts.insert(0, {"role": "system", "content": config.system})
        request: dict[str, Any] = {"model": config.model, "messages": texts, "max_tokens": config.max_tokens}
        with_seed = config.base_url is None if config.send_seed is None else config.send_seed
        optional = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": sample_index if with_seed else None,
            "response_format": _response_format(config, response_format),
        }
        request.update({name: value for name, value in optional.items() if value is not None})
        return PaidCall("teacher", self._provider, config.model, request, sample_index, self._edition)

    async def complete(
        self, messages: Sequence[Message], *, sample_index: int = 0, response_format: dict[str, Any] | None = None
    ) -> TeacherAnswer:
        """The teacher's answer to `messages` (`[{"role", "content"}, ...]`), from the ledger or asked now.

        `sample_index` tells k samples of one question apart. Raises ServiceFailure (see `agentflow.errors`) after
        the last attempt, BudgetExceeded and StoreError. A cut or filtered answer is stored as every other is
        and raises CutAnswer or FilteredAnswer each time it is read.
        """
        call = self.call(messages, sample_index=sample_index, response_format=response_format)
        worst = self._worst_case(call.request)

        async def attempt() -> TeacherAnswer:
            recorded = await self._pace.ask(call, lambda: self._send(call.request), worst)
            answer = read_completion(recorded.response)
            tokens = tokens_used(recorded.response) or (0, 0)
            return TeacherAnswer(
                answer.content,
                answer.reasoning,
                answer.finish_reason,
                recorded.key,
                recorded.paid,
                *tokens,
                fetched_at=recorded.fetched_at,
            )

        return await self._pace.persist(call.key, attempt)

    async def _send(self, request: dict[str, Any]) -> Answer | Refusal:
        """One HTTP request. Failures are returned, not raised, so that they carry no request (and no key) along."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                # Not `chat.completions.create`: that walks the types of the request and builds objects of the answer,
                # a third of a call's CPU time, while here both are plain JSON that is checked and kept as it came.
                reply = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=request)
        except openai.APIStatusError as error:
            response = error.response
            failure = from_status(
                response.status_code, response.headers, response.text, service="teacher", secrets=self._secrets
            )
            return refusal(failure)
        except ServiceFailure as error:
            return refusal(error)  # too large: billed, but nobody reads how much
        except UnicodeEncodeError:
            return Refusal(RequestRejected("teacher: the messages hold characters that UTF-8 cannot carry"))
        except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            failure, never_left = from_transport(error, service="teacher", secrets=self._secrets)
            return Refusal(failure, Cost() if never_left else None)
        return self._judge(reply.content, reply.status_code)

    def _judge(self, content: bytes, status: int) -> Answer | Refusal:
        cost = None
        try:
            if status != 200:
                text = content.decode("utf-8", "replace")
                raise from_status(status, {}, text, service="teacher", secrets=self._secrets)
            body = read_json(content, service="teacher", secrets=self._secrets)
            tokens = tokens_used(body)
            cost = teacher_cost(self.config, *tokens) if tokens else None
            # A cut or filtered answer is whole, paid, and the same if asked again: kept, so that it is paid once and
            # reading it fails, now and on every replay.
            with contextlib.suppress(CutAnswer, FilteredAnswer):
                read_completion(body)
        except ServiceFailure as failure:
            return Refusal(failure.with_traceback(None), cost)
        return Answer(body, cost)

    def _worst_case(self, request: dict[str, Any]) -> Cost:
        """What the request can cost at most: no byte-level tokenizer makes more than one token of a byte."""
        sent = {name: request[name] for name in ("messages", "response_format") if name in request}
        prompt = len(canonical_json(sent).encode("utf-8", "backslashreplace"))
        tokens_in = prompt + TOKENS_PER_MESSAGE * len(request["messages"])
        return teacher_cost(self.config, tokens_in, self.config.max_tokens)


def _response_format(config: TeacherConfig, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is sent where an answer of the form `wanted` is."""
    if wanted is None:
        return None
    host = None if config.base_url is None else split_url(config.base_url).hostname
    kind = config.structured or ("json_object" if host in WITHOUT_SCHEMAS else "json_schema")
    return {"json_schema": wanted, "json_object": {"type": "json_object"}, "none": None}[kind]


def teacher_cost(config: TeacherConfig, tokens_in: int, tokens_out: int) -> Cost:
    """What so many tokens cost at the configured prices; unknown ones count as 0."""
    price_in, price_out = config.usd_per_million_in or 0.0, config.usd_per_million_out or 0.0
    return Cost(tokens_in, tokens_out, usd=(tokens_in * price_in + tokens_out * price_out) / 1_000_000)


def _place(config: TeacherConfig, ledger: Ledger, local_address: str | None) -> tuple[str, str]:
    """Address and key to use."""
    if config.base_url is None:
        if local_address is None and ledger.mode == "record":
            raise ConfigError("teacher.base_url is empty and no local teacher runs; start one or give base_url")
        return local_address or "http://127.0.0.1:9/v1", LOCAL_KEY
    split_url(config.base_url)
    if ledger.mode != "record":
        return config.base_url, NO_KEY
    prices = (config.usd_per_million_in, config.usd_per_million_out)
    if ledger.budget_key is not None and None in prices:
        raise ConfigError(
            f"a budget is set but teacher.usd_per_million_in/out are {prices} for {config.provider}; "
            "a budget cannot hold without prices: give both (0 if calls are free)"
        )
    chosen = config.api_key_env is not None
    return config.base_url, key_for(config.base_url, config.key_env, chosen=chosen, service="teacher")


def _http_client(config: TeacherConfig) -> httpx2.AsyncClient:
    real = config.base_url is not None
    connect_s = min(_CONNECT_TIMEOUT_S + _CONNECT_EACH_S * config.concurrency, config.timeout_s)
    return openai.DefaultAioHttpClient(
        # No redirects: an answer must not send the key or the question elsewhere.
        follow_redirects=False,
        timeout=httpx2.Timeout(config.timeout_s, connect=connect_s),
        limits=httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
        headers={"accept-encoding": "identity"},
        event_hooks={"request": [_drop_account_headers], "response": [cap_answer]},
        trust_env=real,  # the stand-in is on this machine, never behind a proxy
    )


async def _drop_account_headers(request: httpx2.Request) -> None:
    # The SDK takes these from the environment, whatever the host.
    if request.url.host != "api.openai.com":
        for name in ("openai-organization", "openai-project"):
            request.headers.pop(name, None)
