"""A call that another process is at is waited for, not paid twice; a process that is gone holds nobody up."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentflow.errors import AuthFailed, RateLimited, StoreError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal
from agentflow.ledger.claims import Claim, Renew, Standing, Unclaim, apply
from agentflow.ledger.database import open_engine
from agentflow.ledger.places import me, owner_of

LOOKED_UP = PaidCall("search", "local/0", "basic", {"query": "who"}, 0, "1")
TAUGHT = PaidCall("teacher", "local/0", "m", {"messages": []}, 0, "1")
ELSEWHERE = "elsewhere|boot|1|1.00"


class Search:
    """A counted search that takes a while."""

    def __init__(
        self, outcome: Callable[[], Any] = lambda: Answer({"results": []}, Cost(credits=1)), *, takes_s: float = 0.3
    ) -> None:
        self.sent, self._outcome, self._takes_s = 0, outcome, takes_s

    async def __call__(self) -> Answer | Refusal:
        self.sent += 1
        await asyncio.sleep(self._takes_s)
        outcome = self._outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def at_once(database: str, *searches: Search, call: PaidCall = LOOKED_UP) -> list[Any]:
    """Each asks the same through a ledger of its own: two handles know as little of each other as two processes."""

    async def run(ledgers: list[Ledger]) -> list[Any]:
        asked = (ledger.ask(call, search, Cost()) for ledger, search in zip(ledgers, searches, strict=True))
        return await asyncio.gather(*asked)

    ledgers = [Ledger.open(database, run_id=f"run{number}") for number in range(len(searches))]
    try:
        return asyncio.run(run(ledgers))
    finally:
        for ledger in ledgers:
            ledger.close()


def claims(database: str) -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute("SELECT count(*) FROM claims").fetchone()[0])


def leave_claim(database: str, owner: str, at: float) -> None:
    """What a process leaves behind that ended while it was at the search."""
    Ledger.open(database, run_id="made").close()
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO claims VALUES (?, ?, ?, ?)", (LOOKED_UP.key, "0" * 32, owner, at))


@pytest.mark.parametrize("call", [LOOKED_UP, TAUGHT], ids=lambda call: call.kind)
def test_the_same_call_of_four_workers_is_paid_once(call: PaidCall, database: str) -> None:
    search = Search()
    answers = at_once(database, *[search] * 4, call=call)
    assert search.sent == 1 and sorted(answer.paid for answer in answers) == [False, False, False, True]
    assert all(answer.response == {"results": []} for answer in answers) and claims(database) == 0


def test_who_waited_for_a_search_that_failed_makes_its_own(database: str) -> None:
    failing, working = Search(lambda: RateLimited("429", retry_after_s=0.0)), Search()

    async def run(one: Ledger, other: Ledger) -> Any:
        failed = asyncio.ensure_future(one.ask(LOOKED_UP, failing, Cost()))
        await asyncio.sleep(0.1)
        answered = await other.ask(LOOKED_UP, working, Cost())
        with pytest.raises(RateLimited):
            await failed
        return answered

    with Ledger.open(database, run_id="a") as one, Ledger.open(database, run_id="b") as other:
        assert asyncio.run(run(one, other)).paid
    assert (failing.sent, working.sent) == (1, 1) and claims(database) == 0


def test_a_search_that_is_given_up_lets_the_next_one_go(database: str) -> None:
    first, second = Search(), Search()

    async def run(one: Ledger, other: Ledger) -> Any:
        given_up = asyncio.ensure_future(one.ask(LOOKED_UP, first, Cost()))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(other.ask(LOOKED_UP, second, Cost()))
        await asyncio.sleep(0.1)
        assert second.sent == 0
        given_up.cancel()
        return await asyncio.wait_for(waiting, 10)

    with Ledger.open(database, run_id="a") as one, Ledger.open(database, run_id="b") as other:
        assert asyncio.run(run(one, other)).paid
    assert second.sent == 1 and claims(database) == 0


def test_a_process_that_was_killed_at_a_search_holds_nobody_up(database: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = owner_of(process.pid)
    process.kill()
    process.communicate()
    leave_claim(database, owner, time.time())
    (answer,) = at_once(database, Search())
    assert answer.paid and claims(database) == 0


@pytest.mark.parametrize("owner", [ELSEWHERE, me()], ids=["of another host", "of a process that lost its last entries"])
def test_a_claim_counts_until_it_is_not_renewed_any_more(
    owner: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentflow.ledger.claims.LEASE_S", 1.0)
    # By the waiter's clock: that of the other host may be an hour behind.
    leave_claim(database, owner, time.time() - 3600)
    began = time.monotonic()
    (answer,) = at_once(database, Search())
    assert answer.paid and time.monotonic() - began > 1.0 and claims(database) == 0


def test_a_holder_that_waits_long_keeps_its_claim(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentflow.ledger.claims.LEASE_S", 0.5)
    monkeypatch.setattr("agentflow.ledger.claims.RENEW_S", 0.1)
    search = Search(takes_s=2.0)
    answers = at_once(database, search, search)
    assert search.sent == 1 and sorted(answer.paid for answer in answers) == [False, True]


def test_a_call_that_waits_for_another_process_lets_that_one_go_on(database: str) -> None:
    """Each has one slot. Who holds a slot never waits for a claim, so nobody waits in a circle."""
    keys = [PaidCall("teacher", "local/0", "m", {"n": n}, 0, "1") for n in range(6)]
    search = Search(takes_s=0.05)

    async def run(ledgers: list[Ledger]) -> None:
        slots = [asyncio.Semaphore(1), asyncio.Semaphore(1)]
        orders = (keys, keys[::-1])
        asked = [
            ledger.ask(key, search, Cost(), admit=lambda slot=slot: slot)
            for ledger, slot, order in zip(ledgers, slots, orders, strict=True)
            for key in order
        ]
        await asyncio.wait_for(asyncio.gather(*asked), 30)

    with Ledger.open(database, run_id="a") as one, Ledger.open(database, run_id="b") as other:
        asyncio.run(run([one, other]))
    assert search.sent == len(keys) and claims(database) == 0


def test_a_client_that_was_stopped_waits_for_no_other_process(database: str) -> None:
    leave_claim(database, ELSEWHERE, time.time())  # of another machine: nobody can say that it is gone
    stopped_at = time.monotonic() + 0.3

    def check() -> None:
        if time.monotonic() > stopped_at:
            raise AuthFailed("search answered 401")

    search = Search()
    with Ledger.open(database, run_id="stopped") as ledger:
        started = time.monotonic()
        with pytest.raises(AuthFailed):
            asyncio.run(ledger.ask(LOOKED_UP, search, Cost(), check=check))
        assert time.monotonic() - started < 5 and search.sent == 0
    assert claims(database) == 1, "the other's claim stands, and none was left beside it"


def test_a_call_that_waits_for_its_turn_is_not_sent_once_the_ledger_is_closed(database: str) -> None:
    search = Search()

    async def run(ledger: Ledger) -> None:
        slot = asyncio.Semaphore(0)
        asked = asyncio.ensure_future(ledger.ask(TAUGHT, search, Cost(), admit=lambda: slot))
        while not claims(database):
            await asyncio.sleep(0.01)
        ledger.close()
        slot.release()
        with pytest.raises(StoreError, match="closed"):
            await asked

    asyncio.run(run(Ledger.open(database, run_id="a")))
    assert search.sent == 0


@pytest.mark.parametrize(
    "kinds, left", [("claim", 1), ("claim unclaim", 0), ("unclaim claim", 1), ("claim unclaim claim renew", 1)]
)
def test_entries_of_one_call_that_are_written_together_keep_their_order(kinds: str, left: int, database: str) -> None:
    made = {"claim": Claim("k", "me", "owner", 1.0), "unclaim": Unclaim("k", "me"), "renew": Renew(["k"], "me", 2.0)}
    entries = [made[kind] for kind in kinds.split()]
    others = [Claim(key, "me", "owner", 1.0) for key in "zab"]
    engine = open_engine(database)
    with engine.begin() as connection:
        results = apply(engine, connection, [others[0], *entries, *others[1:]])
    expected = [Standing() if isinstance(entry, Claim) else None for entry in [others[0], *entries, *others[1:]]]
    assert results == expected and claims(database) == left + len(others)
    with engine.begin() as connection:
        theirs = apply(engine, connection, [Claim("k", "other", "owner", 3.0), Unclaim("a", "other")])
    engine.dispose()
    at = 2.0 if "renew" in kinds else 1.0
    assert theirs == [Standing(Claim("k", "me", "owner", at) if left else None), None], "and nobody else's is given up"
    assert claims(database) == len(others) + 1
