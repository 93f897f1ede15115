"""Web search through Tavily, each query paid once and kept in the ledger with the day it was asked.

In: a query. Out: results as data (title, url, content, score); capping and neutralising them is the tool's work.
Through the real `tavily-python` client on an HTTP client of ours: its own errors drop status and Retry-After, so an
event hook classifies every answer before it sees it. Never keyless.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import httpx
from pydantic import Field
from tavily import AsyncTavilyClient
from tavily.errors import TimeoutError as TavilyTimeout

from agentflow.clients.classify import cap_answer, from_status, from_transport, read_json, refusal, without_secrets
from agentflow.clients.connections import room_for
from agentflow.clients.endpoint import LOCAL_KEY, ServiceConfig, key_for, limit_key, split_url
from agentflow.clients.pace import Pace
from agentflow.config import Frozen, Where, sha256_file
from agentflow.errors import ConfigError, InputError, MalformedAnswer, MissingKeyError, RequestRejected, ServiceFailure
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal

_CREDITS = {"basic": 1.0, "advanced": 2.0}
# Tavily's list: credits of one search by depth.
USD_PER_CREDIT = 0.008
# Tavily's pay-as-you-go price.


class SearchResult(TypedDict):
    """One hit."""

    title: str
    url: str
    content: str
    score: float


class LocalSearch(Frozen):
    """Settings of the local stand-in; part of the identity only while `base_url` is empty."""

    corpus: Annotated[Path | None, Where()] = None
    # JSONL file of passages, or folder of *.jsonl; its bytes enter the identity. None: the invented encyclopedia.
    world_seed: int = 0
    # Which encyclopedia.
    latency_ms: Annotated[float, Where()] = Field(default=0, ge=0)

    def extra_identity(self) -> dict[str, Any]:
        return {"corpus": None if self.corpus is None else _corpus_identity(self.corpus)}


class SearchConfig(ServiceConfig):
    """What is searched, and how. Prices, keys, limits and addresses are `Where`; the host is `provider`."""

    local: Annotated[LocalSearch, Where()] = LocalSearch()
    depth: Literal["basic", "advanced"] = "basic"
    max_results: int = Field(default=5, ge=1, le=20)
    include_domains: tuple[str, ...] = ()
    exclude_domains: tuple[str, ...] = ()
    topic: Literal["general", "news", "finance"] = "general"
    days: int | None = Field(default=None, ge=1)
    # Only for topic "news": how many days back.
    ttl_days: Annotated[float | None, Where()] = Field(default=None, gt=0)
    # A stored answer older than that is asked for again (mode `record`) and replaced; None: never. It changes no
    # identity: what is made already stays as it was, with the dates of its answers.
    default_key_env: ClassVar[str] = "TAVILY_API_KEY"
    usd_per_credit: Annotated[float | None, Where()] = Field(default=None, ge=0)
    # None: Tavily's pay-as-you-go price (USD_PER_CREDIT), and nothing for the stand-in.
    timeout_s: Annotated[float, Where()] = Field(default=60, gt=0, le=120)
    # tavily-python allows no more than 120.
    requests_per_minute: Annotated[int | None, Where()] = Field(default=None, ge=1)
    # What the key allows (Tavily: 100 with a development key, 1,000 in production), over all processes that share a
    # ledger; None: no limit of ours.

    @property
    def price(self) -> float:
        """USD a credit."""
        if self.usd_per_credit is None:
            return 0.0 if self.base_url is None else USD_PER_CREDIT
        return self.usd_per_credit


@dataclass(frozen=True)
class SearchAnswer:
    """The hits of one query, best first; none is an answer too."""

    results: list[SearchResult]
    ledger_key: str
    paid: bool
    # False if it came from the ledger.
    as_of: str
    # ISO 8601 UTC instant at which the service gave it.


class SearchClient:
    """Asks one search service within one event loop. Make it with `open`."""

    def __init__(
        self, config: SearchConfig, ledger: Ledger, client: AsyncTavilyClient, *, edition: str, secrets: list[str]
    ) -> None:
        self.config = config
        self._ledger = ledger
        self._client = client
        self._edition = edition
        self._secrets = secrets
        self._provider = config.provider
        self._pace = Pace("search", config, ledger, limit_key(self._provider, secrets[0] if secrets else LOCAL_KEY))

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: SearchConfig, ledger: Ledger, *, base_url: str | None = None, edition: str = "1"
    ) -> AsyncIterator[SearchClient]:
        """A client, closed at the end of the block.

        `base_url` is the address where the local stand-in listens and is used only while `config.base_url` is empty.
        Raises MissingKeyError without the key of a real host and ConfigError without an address. In replay modes
        nothing is asked, so neither is needed.
        """
        address, key = _place(config, ledger, base_url)
        secrets = [] if key == LOCAL_KEY else [key]

        async def classify(response: httpx.Response) -> None:
            await cap_answer(response)
            await response.aread()
            if response.status_code != 200:
                raise from_status(
                    response.status_code, response.headers, response.text, service="search", secrets=secrets
                )
            # tavily-python takes a body without results for an empty answer.
            read_results(read_json(response.content, service="search", secrets=secrets))

        http_client = httpx.AsyncClient(
            base_url=address,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [classify]},
            trust_env=config.base_url is not None,  # the stand-in is on this machine, never behind a proxy
        )
        async with http_client:
            with room_for(config.concurrency, service="search"):
                client = AsyncTavilyClient(api_key=key, client=http_client, api_base_url=address)
                yield cls(config, ledger, client, edition=edition, secrets=secrets)

    def call(self, query: str) -> PaidCall:
        """The paid call that `search(query)` makes; its `key` is for `Ledger.prefetch`."""
        config = self.config
        request: dict[str, Any] = {
            "query": query,
            "search_depth": config.depth,
            "max_results": config.max_results,
            "topic": config.topic,
        }
        optional = {
            "include_domains": list(config.include_domains),
            "exclude_domains": list(config.exclude_domains),
            "days": config.days,
        }
        request.update({name: value for name, value in optional.items() if value})
        max_age_s = None if config.ttl_days is None else config.ttl_days * 86_400
        return PaidCall("search", self._provider, config.depth, request, 0, self._edition, max_age_s)

    async def search(self, query: str) -> SearchAnswer:
        """Hits for `query`, from the ledger or asked now.

        Raises ServiceFailure (see `agentflow.errors`) after the last attempt, BudgetExceeded and StoreError.
        """
        call = self.call(query)

        async def attempt() -> SearchAnswer:
            recorded = await self._pace.ask(call, lambda: self._send(call.request), search_cost(self.config))
            return SearchAnswer(read_results(recorded.response), recorded.key, recorded.paid, recorded.fetched_at)

        return await self._pace.persist(call.key, attempt)

    async def _send(self, request: dict[str, Any]) -> Answer | Refusal:
        """One HTTP request. Failures are returned, not raised, so that they carry no request (and no key) along."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                body = await self._client.search(**request, timeout=self.config.timeout_s)
        except ServiceFailure as error:
            return refusal(_bare(error))
        except UnicodeEncodeError:
            return Refusal(RequestRejected("search: the query holds characters that UTF-8 cannot carry"))
        except (httpx.HTTPError, TavilyTimeout, OSError) as error:
            failure, never_left = from_transport(error, service="search", secrets=self._secrets)
            return Refusal(failure, Cost() if never_left else None)
        return Answer(without_secrets(body, self._secrets), search_cost(self.config))


def search_cost(config: SearchConfig) -> Cost:
    """What one search costs: credits by depth, at the configured price."""
    credits = _CREDITS[config.depth]
    return Cost(credits=credits, usd=credits * config.price)


def read_results(body: Any) -> list[SearchResult]:
    """The hits in a Tavily body. Raises MalformedAnswer if it is none; other fields of a hit are left out."""
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list):
        raise MalformedAnswer("search: the body has no list of results", status=200)
    return [_read_hit(hit) for hit in results]


def _read_hit(hit: Any) -> SearchResult:
    if not isinstance(hit, dict):
        raise MalformedAnswer(f"search: a result is a {type(hit).__name__}, not an object", status=200)
    for name in ("title", "url", "content"):
        if not isinstance(hit.get(name), str):
            raise MalformedAnswer(f"search: a result has no text {name!r}", status=200)
    score = hit.get("score", 0.0)
    # Compared before it is converted: a JSON integer may be larger than any float.
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
        raise MalformedAnswer(f"search: a result's score is {str(score)[:40]}, not a number", status=200)
    return SearchResult(title=hit["title"], url=hit["url"], content=hit["content"], score=float(score))


def _bare(failure: ServiceFailure) -> ServiceFailure:
    """Without the frames in which the request and its key stand."""
    failure.__cause__ = failure.__context__ = None
    return failure.with_traceback(None)


def _corpus_identity(corpus: Path) -> dict[str, str]:
    if not corpus.is_dir():
        return {corpus.suffix: sha256_file(corpus)}
    files = sorted(corpus.glob("*.jsonl"))
    if not files:
        raise InputError(f"search.local.corpus {str(corpus)!r} has no *.jsonl file; give a file or folder of passages")
    return {file.name: sha256_file(file) for file in files}


def _place(config: SearchConfig, ledger: Ledger, local_address: str | None) -> tuple[str, str]:
    """Address and key to use."""
    if config.base_url is None:
        if local_address is None and ledger.mode == "record":
            raise ConfigError("search.base_url is empty and no local search runs; start one or give base_url")
        return local_address or "http://127.0.0.1:9", LOCAL_KEY
    split_url(config.base_url)
    if ledger.mode != "record":
        return config.base_url, LOCAL_KEY
    if config.key_env == "":
        raise MissingKeyError("search.api_key_env is empty; name the variable with the key, searching is never keyless")
    chosen = config.api_key_env is not None
    return config.base_url, key_for(config.base_url, config.key_env, chosen=chosen, service="search")
