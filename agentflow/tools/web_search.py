"""Web search as a tool: a query in, the best results as one line of text out.

The search itself is given as a function (a client with ledger, limits and retries); this file only checks the
query's results against the blocked sites, renders them and sorts failures: what one query can fail of becomes a
ToolFailure, what stops the run (wrong key, no credits) passes unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from pydantic import Field

from agentflow.config import Frozen, Where
from agentflow.errors import ServiceFailure, ToolFailure
from agentflow.records import ToolResult
from agentflow.tools.contract import Tool, clip, function_schema

NO_RESULTS = "no results"

DATASET_MIRRORS = (
    # Sites that carry the questions of public sets together with their answers.
    "huggingface.co",
    "hf.co",
    "github.com",
    "github.io",
    "githubusercontent.com",
    "kaggle.com",
    "paperswithcode.com",
    "arxiv.org",
    "hotpotqa.github.io",
    "openreview.net",
    "semanticscholar.org",
    "chegg.com",
    "coursehero.com",
    "brainly.com",
)


class SearchAnswer(Protocol):
    """What a search client gives for one query."""

    @property
    def results(self) -> Sequence[Mapping[str, Any]]: ...

    # Best first; each with Tavily's fields title, url, content, score.
    @property
    def ledger_key(self) -> str | None: ...
    @property
    def as_of(self) -> str | None: ...


Search = Callable[[str], Awaitable[SearchAnswer]]


class WebSearchConfig(Frozen):
    """How many results a model sees, and how much of each."""

    n_results: int = Field(default=3, ge=1)
    # Results shown, best first.
    max_chars_per_result: int = Field(default=240, ge=20)
    # Longer results are cut and end in an ellipsis.
    max_query_chars: int = Field(default=300, ge=1)
    # Longer queries are refused (the model is told).
    blocked_domains: tuple[str, ...] = DATASET_MIRRORS
    # Results from these sites and their sub-domains are left out; empty: none.
    timeout_s: Annotated[float, Where()] = Field(default=120.0, gt=0)
    # Deadline of one search with all its retries, seconds.


class WebSearch(Tool):
    """`Search(query)`: what the web says."""

    name = "Search"
    primary = "query"

    def __init__(self, search: Search, config: WebSearchConfig | None = None) -> None:
        self._search = search
        self._config = config or WebSearchConfig()
        self.timeout_s = self._config.timeout_s
        self.max_result_chars = self._config.n_results * (self._config.max_chars_per_result + len(_SEPARATOR))

    @property
    def schema(self) -> dict[str, Any]:
        query = {
            "type": "string",
            "description": "What to look up, as a short question or a few key words.",
            "minLength": 1,
            "maxLength": self._config.max_query_chars,
        }
        return function_schema(self.name, "Searches the web and returns the best passages.", {"query": query})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        """Raises ToolFailure with the failure's kind; a ServiceFailure that stops the run passes unchanged."""
        try:
            answer = await self._search(arguments["query"])
        except ServiceFailure as failure:
            if failure.stops_run:
                raise
            raise ToolFailure(f"search failed: {failure}", kind=failure.kind) from failure
        return ToolResult(text=self.render(answer.results), ledger_key=answer.ledger_key, as_of=answer.as_of)

    def render(self, results: Sequence[Mapping[str, Any]]) -> str:
        """The first `n_results` that may be shown, as "title: content | title: content"; "no results" if none."""
        allowed = [hit for hit in results if not is_blocked(hit["url"], self._config.blocked_domains)]
        lines = [self._line(hit) for hit in allowed[: self._config.n_results]]
        return _SEPARATOR.join(line for line in lines if line) or NO_RESULTS

    def _line(self, hit: Mapping[str, Any]) -> str:
        title, content = hit["title"] or "", hit["content"] or ""
        named = content if title in content else f"{title}: {content}"
        return clip(named, self._config.max_chars_per_result)


_SEPARATOR = " | "


def is_blocked(url: str, domains: Sequence[str]) -> bool:
    """Whether the host of `url` is one of `domains` or below one. An address that cannot be read is blocked."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return True
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
