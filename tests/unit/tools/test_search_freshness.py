"""A stored search answer may grow old: then it is asked for again, once, and says when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentflow.clients.search import SearchAnswer, SearchClient, SearchConfig
from agentflow.config import identity
from agentflow.errors import ServerFailed
from agentflow.ledger import Ledger, Mode
from agentflow.records import ToolCall
from agentflow.services.server import LocalService
from agentflow.tools.contract import ToolBox
from agentflow.tools.web_search import WebSearch

OUTLIVED = 1e-9
# Days; shorter than any call takes.


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with LocalService("search", world_seed=0) as running:
        yield running


def ask(service: LocalService, ledger: Path, *, ttl_days: float | None = None, mode: Mode = "record") -> SearchAnswer:
    async def search() -> SearchAnswer:
        config = SearchConfig(ttl_days=ttl_days, max_attempts=1)
        with Ledger.open(str(ledger), run_id="run", mode=mode) as opened:
            async with SearchClient.open(config, opened, base_url=service.base_url) as client:
                return await client.search("company")

    return asyncio.run(search())


def test_an_answer_that_outlived_its_time_is_asked_for_again(service: LocalService, tmp_path: Path) -> None:
    service.reset()
    first = ask(service, tmp_path / "ledger.db")
    assert first.paid and not ask(service, tmp_path / "ledger.db").paid, "without a time to live it stays"
    assert not ask(service, tmp_path / "ledger.db", ttl_days=1).paid, "it is young"
    again = ask(service, tmp_path / "ledger.db", ttl_days=OUTLIVED)
    assert again.paid and again.ledger_key == first.ledger_key and again.as_of > first.as_of
    kept = ask(service, tmp_path / "ledger.db")
    assert (kept.paid, kept.as_of) == (False, again.as_of), "the new answer took the place of the old one"
    assert service.stats()["requests"] == 2


def test_a_replay_takes_what_is_stored_however_old(service: LocalService, tmp_path: Path) -> None:
    first = ask(service, tmp_path / "ledger.db")
    replayed = ask(service, tmp_path / "ledger.db", ttl_days=OUTLIVED, mode="replay_or_fail")
    assert (replayed.paid, replayed.as_of) == (False, first.as_of)


def test_where_asking_again_fails_the_old_answer_is_not_passed_off_as_new(
    service: LocalService, tmp_path: Path
) -> None:
    first = ask(service, tmp_path / "ledger.db")
    service.set_faults([{"kind": "status", "status": 500}])
    with pytest.raises(ServerFailed):
        ask(service, tmp_path / "ledger.db", ttl_days=OUTLIVED)
    service.reset()
    assert ask(service, tmp_path / "ledger.db").as_of == first.as_of, "and it is not lost either"


def test_a_time_to_live_makes_nothing_anew() -> None:
    assert identity(SearchConfig(ttl_days=7)) == identity(SearchConfig())


def test_the_date_of_an_answer_reaches_the_row(service: LocalService, tmp_path: Path) -> None:
    async def run() -> str | None:
        with Ledger.open(str(tmp_path / "ledger.db"), run_id="run") as ledger:
            async with SearchClient.open(SearchConfig(), ledger, base_url=service.base_url) as client:
                result = await ToolBox([WebSearch(client.search)]).run(ToolCall("Search", {"query": "company"}))
                stored = ledger.get(result.ledger_key or "")
                assert stored is not None and result.as_of == stored["fetched_at"]
                return result.as_of

    assert asyncio.run(run())
