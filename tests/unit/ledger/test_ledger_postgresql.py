"""The same ledger on PostgreSQL: one server, several processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from postgresql import postgresql
from sqlalchemy import func, select

from agentflow.errors import BudgetExceeded, ReplayMissing
from agentflow.ledger import Answer, Cost, Ledger, PaidCall
from agentflow.ledger.database import open_engine
from agentflow.ledger.limits import Extend, Grant, Limits, Pause, Settle, burst_of
from agentflow.ledger.models import CLAIMS

DRIVER = Path(__file__).parent / "ledger_driver.py"
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as server:
        yield server.url("postgres")


def call(number: int, kind: str = "search") -> PaidCall:
    return PaidCall(kind, "local/0", "basic", {"query": f"q{number}"}, 0, "pg")


def test_records_replays_and_keeps_a_budget(server: str) -> None:
    odd = {"text": "\ud800 \x00 \U0001f600"}

    async def send() -> Answer:
        return Answer(odd, Cost(credits=1, usd=0.5))

    with Ledger.open(server, run_id="a", budget_usd=0.5) as ledger:
        assert asyncio.run(ledger.ask(call(0), send, Cost(usd=0.5))).paid
        with pytest.raises(BudgetExceeded):
            asyncio.run(ledger.ask(call(1), send, Cost(usd=0.5)))
        with pytest.raises(BudgetExceeded):
            asyncio.run(ledger.ask(call(2), send, Cost(usd=0.000001)))
    with Ledger.open(server, run_id="b", mode="replay") as ledger:
        assert asyncio.run(ledger.ask(call(0), send, Cost())).response == odd
        with pytest.raises(ReplayMissing):
            asyncio.run(ledger.ask(call(1), send, Cost()))
        entry = ledger.get(call(0).key)
        assert ledger.usage("b")["search"]["replayed"] == 1
        assert ledger.usage("a")["credits"] == 1
    assert entry is not None and entry["response"] == odd


@pytest.mark.parametrize("kind", ["search", "teacher"])
def test_two_workers_pay_the_same_call_once_in_whatever_order_they_come_to_it(kind: str, server: str) -> None:
    sent = []
    numbers = range(20, 220)

    async def both(ledgers: list[Ledger]) -> list[bool]:
        async def answer(number: int) -> Answer:
            sent.append(number)
            await asyncio.sleep(0.05)
            return Answer({"n": number}, Cost())

        orders = (numbers, reversed(numbers))
        asked = [
            ledger.ask(call(number, kind), partial(answer, number), Cost())
            for ledger, order in zip(ledgers, orders, strict=True)
            for number in order
        ]
        return [recorded.paid for recorded in await asyncio.gather(*asked)]

    with Ledger.open(server, run_id="a") as one, Ledger.open(server, run_id="b") as other:
        paid = asyncio.run(both([one, other]))
    assert sorted(sent) == list(numbers) and sum(paid) == len(numbers)
    with open_engine(server).connect() as connection:
        assert connection.scalar(select(func.count()).select_from(CLAIMS)) == 0


def test_the_first_of_two_answers_wins(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentflow.ledger.claims.LEASE_S", 0.0)  # the first is taken for dead, but is not

    async def answer(n: int) -> Answer:
        await asyncio.sleep(0.05)
        return Answer({"n": n}, Cost())

    taught = call(10, "teacher")

    async def both(one: Ledger, other: Ledger) -> list[int]:
        got = await asyncio.gather(
            one.ask(taught, lambda: answer(1), Cost()), other.ask(taught, lambda: answer(2), Cost())
        )
        return [recorded.response["n"] for recorded in got]

    with Ledger.open(server, run_id="a") as one, Ledger.open(server, run_id="b") as other:
        first, second = asyncio.run(both(one, other))
    assert first == second


def test_two_processes_never_overspend(server: str) -> None:
    def start(what: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(DRIVER), what, server, *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE,
            text=True,
        )

    processes = [start("spend", f"run{first}", "0.37", str(first), str(first + 50)) for first in (0, 50)]
    refused = [int(process.communicate(timeout=60)[0]) for process in processes]
    with Ledger.open(server, run_id="reader") as ledger:
        shared = ledger.stats()["budgets"]["shared"]
    assert shared == {"limit_usd": 0.37, "spent_usd": 0.37, "reserved_usd": 0}
    assert sum(refused) == 63


def test_processes_that_ask_at_once_share_one_limit(server: str) -> None:
    engines = [open_engine(server) for _ in range(4)]
    # Two machines whose clocks have nothing in common.
    hosts = [
        Limits(engine, place=f"boot{n % 2}", clock=lambda n=n: 1000.0 * (n % 2)) for n, engine in enumerate(engines)
    ]

    def ask(number: int) -> int:
        with engines[number % 4].begin() as connection:
            entry = Grant("k" * 64, 60, 10_000, (f"{number:032d}",), (2_500,))
            (granted,) = hosts[number % 4].apply(connection, [entry])
        assert granted is not None and (granted.count or granted.wait_s > 0)
        return granted.count

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(ask, range(40))) == burst_of(60)
    with engines[0].begin() as connection:
        hosts[0].apply(connection, [Settle("k" * 64, f"{0:032d}", 10), Pause("k" * 64, 5), Extend("k" * 64, "0")])
        (granted,) = hosts[0].apply(connection, [Grant("k" * 64, None, 10_000, ("x" * 32,), (1,))])
        assert granted is not None and granted.count == 0 and 0 < granted.wait_s <= 5
    for engine in engines:
        engine.dispose()


def test_a_stop_is_shared_by_the_processes_of_a_run(server: str) -> None:
    with Ledger.open(server, run_id="stopped") as one, Ledger.open(server, run_id="stopped") as other:
        one.stops.note("k", "auth", "bad key")
        one.stops.note("k", "auth", "again")
        assert one.stops.of("k") == other.stops.of("k") == ("auth", "bad key")
        other.stops.lift()
        assert one.stops.of("k") is None
