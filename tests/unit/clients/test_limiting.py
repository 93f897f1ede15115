"""Limits, stops and open files as a client meets them, over real HTTP and a real ledger."""

from __future__ import annotations

import asyncio
import gc
import resource
import weakref
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from agentflow.clients import connections
from agentflow.clients.endpoint import limit_key
from agentflow.clients.limit import Limiter
from agentflow.clients.retry import Patience
from agentflow.clients.search import SearchClient, SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.config import identity
from agentflow.errors import AuthFailed, ConfigError, QuotaExhausted, StoreError
from agentflow.ledger import Ledger
from agentflow.ledger.database import open_engine
from agentflow.ledger.models import RATE_LIMITS, RATE_LOG

QUICK = Patience(first_wait_s=0.0, longest_wait_s=0.05, breaker_failures=1000)
QUESTION = [{"role": "user", "content": "What is 6 * 7?"}]
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 12},
}


def config(**changes: Any) -> TeacherConfig:
    return TeacherConfig(**{"patience": QUICK, **changes})


async def ask_many(server: Any, ledger: Ledger, settings: TeacherConfig, count: int) -> list[Any]:
    async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
        calls = (teacher.complete(QUESTION, sample_index=index) for index in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)


def rows(ledger_file: Path, table: Any) -> list[Any]:
    engine = open_engine(str(ledger_file))
    with engine.connect() as connection:
        found = list(connection.execute(select(table)).all())
    engine.dispose()
    return found


def test_calls_go_in_the_order_of_asking_and_each_is_counted(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(ANSWER)]
    answers = asyncio.run(ask_many(server, ledger, config(requests_per_minute=6000, concurrency=50), 150))
    assert all(answer.paid for answer in answers) and len(server.requests) == 150


def test_the_limit_holds_over_clients_and_kinds_of_calls_have_their_own(
    server: Any, ledger: Ledger, reply: Any, tmp_path: Path
) -> None:
    server.script = [reply(ANSWER)]

    async def run() -> None:
        asyncio.create_task(ask_many(server, ledger, config(requests_per_minute=1), 3))
        asyncio.create_task(ask_many(server, ledger, config(requests_per_minute=1), 3))
        async with SearchClient.open(
            SearchConfig(requests_per_minute=1, patience=QUICK, max_attempts=1), ledger, base_url=server.url
        ) as search:
            await asyncio.gather(search.search("q"), return_exceptions=True)
        while not server.requests:
            await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(run())
    assert sorted(request.line.split()[1] for request in server.requests) == ["/chat/completions", "/search"]
    assert len(rows(tmp_path / "ledger.db", RATE_LIMITS)) == 2


def test_a_wrong_key_ends_also_the_calls_that_wait_for_the_limit(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"error": {"message": "bad key"}}, status=401, delay_s=0.05)]
    ended = asyncio.run(ask_many(server, ledger, config(requests_per_minute=1, concurrency=8), 20))
    assert all(isinstance(failure, AuthFailed) for failure in ended)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 432, 433])
def test_a_stop_ends_calls_that_wait_to_be_retried_and_reserves_nothing(
    server: Any, tmp_path: Path, reply: Any, status: int
) -> None:
    server.script = [reply({}, status=500), reply({}, status=500), reply({}, status=status)]
    patient = Patience(first_wait_s=600, longest_wait_s=600)  # nobody waits that long for this test
    settings = config(concurrency=1, patience=patient, usd_per_million_in=1, usd_per_million_out=1)
    with Ledger.open(str(tmp_path / "ledger.db"), run_id="r", budget_usd=1) as ledger:
        ended = asyncio.run(ask_many(server, ledger, settings, 10))
        assert len(server.requests) == 3
        assert {type(failure) for failure in ended} <= {AuthFailed, QuotaExhausted}
        assert ledger.stats()["budgets"]["r"]["reserved_usd"] == 0


def test_batches_that_start_after_a_stop_ask_nothing_until_a_stage_begins_anew(
    server: Any, ledger: Ledger, reply: Any
) -> None:
    server.script = [reply({"error": {"message": "empty"}}, status=402)]
    asyncio.run(ask_many(server, ledger, config(concurrency=1), 1))
    (failure,) = asyncio.run(ask_many(server, ledger, config(), 1))
    assert isinstance(failure, QuotaExhausted) and "402" in str(failure) and len(server.requests) == 1
    other_key = config(base_url=server.url, api_key_env="")
    assert len(asyncio.run(ask_many(server, ledger, other_key, 1))) == 1 and len(server.requests) == 2
    ledger.stops.lift()
    server.script = [reply(ANSWER)]
    (answer,) = asyncio.run(ask_many(server, ledger, config(), 1))
    assert answer.paid


def test_a_retry_after_holds_for_other_processes_of_the_key_without_any_limit(
    server: Any, reply: Any, tmp_path: Path
) -> None:
    server.script = [reply({}, status=429, headers={"retry-after": "30"}), reply(ANSWER)]
    patience = Patience(first_wait_s=0.0, longest_wait_s=0.7)
    for _ in range(2):  # each opening of the ledger knows no more than another process would
        with Ledger.open(str(tmp_path / "shared.db"), run_id="run") as opened:
            ended = asyncio.run(ask_many(server, opened, config(patience=patience, max_attempts=1), 1))
    assert not isinstance(ended[0], Exception)
    assert server.requests[1].at - server.requests[0].at >= 0.6


def test_a_pause_of_another_process_ends_with_what_stops_the_client(ledger: Ledger) -> None:
    async def run() -> None:
        limiter = Limiter(ledger, "key")
        limiter.pause(60)
        waiting = [asyncio.create_task(limiter.acquire(1)) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not any(one.done() for one in waiting)
        limiter.give_up(AuthFailed("wrong key"))
        assert await asyncio.gather(*waiting) == [None, None, None]

    asyncio.run(run())


def test_tokens_are_settled_to_what_the_service_counted(
    server: Any, ledger: Ledger, reply: Any, tmp_path: Path
) -> None:
    server.script = [reply({}, status=500), reply({**ANSWER, "usage": None}), reply(ANSWER)]
    settings = config(tokens_per_minute=1_000_000, max_tokens=500, concurrency=1)
    asyncio.run(ask_many(server, ledger, settings, 2))
    refused, unknown, known = sorted(row.tokens for row in rows(tmp_path / "ledger.db", RATE_LOG))[:1] + [
        row.tokens for row in rows(tmp_path / "ledger.db", RATE_LOG) if row.tokens
    ]
    assert refused == 0 and sorted([unknown, known])[0] == 42 and sorted([unknown, known])[1] > 500


def test_what_waits_fails_when_the_ledger_does(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger.db"), run_id="r")
    ledger.close()

    async def run() -> None:
        limiter = Limiter(ledger, "k", requests_per_minute=1)
        with pytest.raises(StoreError):
            await limiter.acquire(0)

    asyncio.run(run())


def test_limits_are_kept_under_a_hash_and_are_no_identity(
    server: Any, ledger: Ledger, reply: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-canary-42424242")
    server.script = [reply(ANSWER)]
    settings = config(base_url=server.url, api_key_env="SOME_KEY", requests_per_minute=5, tokens_per_minute=10**6)
    asyncio.run(ask_many(server, ledger, settings, 1))
    (limit,) = rows(tmp_path / "ledger.db", RATE_LIMITS)
    assert limit.key == limit_key(settings.provider, "sk-canary-42424242") and "canary" not in str(limit)
    assert identity(settings) == identity(settings.model_copy(update={"requests_per_minute": None}))


def test_open_files_are_raised_as_far_as_allowed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    connections.allow_connections(700, service="teacher")
    assert set_to == []
    connections.allow_connections(3000, service="teacher")
    assert set_to == [(3000 + connections.SPARE_FILES, 4096)]
    with pytest.raises(ConfigError, match="teacher.concurrency is 5000 but .* only 4096 files.*give at most 3840"):
        connections.allow_connections(5000, service="teacher")
    set_to.clear()
    with connections.room_for(1500, service="teacher"):
        with connections.room_for(1500, service="search"):
            assert set_to[-1] == (3000 + connections.SPARE_FILES, 4096), "a stage that asks both needs room for both"
        with (
            pytest.raises(ConfigError, match="search.concurrency is 3000 .* 1500 for other clients; give at most 2340"),
            connections.room_for(3000, service="search"),
        ):
            pass
    with connections.room_for(3000, service="search"):
        assert set_to[-1] == (3000 + connections.SPARE_FILES, 4096), "closed clients give theirs back"
    monkeypatch.undo()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_while_a_client_is_open_garbage_is_collected_less_often_and_not_among_what_was_there_before() -> None:
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    few, many = connections.fewer_collections(64), connections.fewer_collections(5000)
    few.__enter__()
    assert gc.get_threshold()[0] == max(usual[0], connections.FEWEST_OBJECTS)
    assert gc.get_freeze_count() > frozen + 1000, "what the imports made is looked through again and again"
    many.__enter__()
    assert gc.get_threshold()[0] >= 60_000
    few.__exit__(None, None, None)  # clients close in any order
    assert gc.get_threshold()[0] >= 60_000
    assert gc.get_freeze_count() > frozen + 1000

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    seen = weakref.ref(Cycle())
    gc.collect()
    assert seen() is None, "garbage of the calls themselves goes all the same"
    many.__exit__(None, None, None)
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() <= frozen
