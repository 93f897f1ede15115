"""The budget: worst cases are reserved before, real costs settled after, and nothing is ever overspent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from agentflow.errors import BudgetExceeded, ConfigError, ServerFailed, StoreError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal
from agentflow.ledger.database import open_engine
from agentflow.ledger.models import ATTEMPTS, RESERVATIONS
from agentflow.ledger.places import me

DRIVER = Path(__file__).parent / "ledger_driver.py"
ROOT = Path(__file__).parents[3]


def numbered(number: int) -> PaidCall:
    return PaidCall("teacher", "local/0", "m", {"number": number}, 0, "1")


async def costs(usd: float, wait: float = 0.0) -> Answer:
    await asyncio.sleep(wait)
    return Answer({"ok": True}, Cost(usd=usd))


def purse(ledger: Ledger, key: str = "night") -> dict[str, Any]:
    return ledger.stats()["budgets"][key]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -0.01, 1e30])
def test_a_budget_that_is_no_amount_of_money_is_refused(database: str, budget: float) -> None:
    with pytest.raises(ConfigError, match=r"a number from 0 to 1,000,000,000"):
        Ledger.open(database, run_id="r", budget_usd=budget)
    assert not Path(database).exists()


def test_the_worst_case_is_reserved_and_the_real_cost_settled(database: str) -> None:
    seen = []
    with Ledger.open(database, run_id="r", budget_usd=1, budget_key="night") as ledger:

        async def send() -> Answer:
            seen.append(purse(ledger))
            return await costs(0.25)

        asyncio.run(ledger.ask(numbered(0), send, Cost(usd=0.75)))
        assert seen == [{"limit_usd": 1, "spent_usd": 0, "reserved_usd": 0.75}]
        assert purse(ledger) == {"limit_usd": 1, "spent_usd": 0.25, "reserved_usd": 0}


def test_a_call_whose_worst_case_does_not_fit_is_not_sent(database: str) -> None:
    with Ledger.open(database, run_id="r", budget_usd=0.5) as ledger:
        asyncio.run(ledger.ask(numbered(0), lambda: costs(0.2), Cost(usd=0.3)))
        with pytest.raises(BudgetExceeded, match=r"0.500000 USD.*0.200000 USD spent.*may cost 0.400000"):
            asyncio.run(ledger.ask(numbered(1), lambda: pytest.fail("was sent"), Cost(usd=0.4)))
        asyncio.run(ledger.ask(numbered(1), lambda: costs(0.3), Cost(usd=0.3)))
        assert purse(ledger, "r") == {"limit_usd": 0.5, "spent_usd": 0.5, "reserved_usd": 0}


def test_stored_answers_cost_nothing_even_when_the_budget_is_used_up(database: str) -> None:
    with Ledger.open(database, run_id="r", budget_usd=0.1) as ledger:
        asyncio.run(ledger.ask(numbered(0), lambda: costs(0.1), Cost(usd=0.1)))
        assert not asyncio.run(ledger.ask(numbered(0), lambda: costs(0.1), Cost(usd=0.1))).paid


def test_a_resumed_run_counts_what_was_spent_and_takes_a_larger_budget(database: str) -> None:
    for limit, fits in ((0.1, True), (0.1, False), (0.2, True)):
        with Ledger.open(database, run_id=f"r{limit}", budget_usd=limit, budget_key="night") as ledger:
            call = numbered(len(ledger.stats()["answers"]) and ledger.stats()["answers"]["teacher"])
            if fits:
                assert asyncio.run(ledger.ask(call, lambda: costs(0.1), Cost(usd=0.1))).paid
            else:
                with pytest.raises(BudgetExceeded):
                    asyncio.run(ledger.ask(call, lambda: costs(0.1), Cost(usd=0.1)))
    with Ledger.open(database, run_id="worker", budget_key="night") as ledger:
        assert purse(ledger) == {"limit_usd": 0.2, "spent_usd": 0.2, "reserved_usd": 0}


def test_a_worker_that_names_an_unknown_purse_is_told_so(database: str) -> None:
    with pytest.raises(StoreError, match="budget 'nihgt' is not in the ledger"):
        Ledger.open(database, run_id="r", budget_key="nihgt")


def test_refused_attempts_release_and_unknown_ones_are_charged(database: str) -> None:
    async def refuse(cost: Cost | None) -> Refusal:
        return Refusal(ServerFailed("503", status=503), cost)

    with Ledger.open(database, run_id="r", budget_usd=1) as ledger:
        for number, cost in enumerate([Cost(), None]):
            with pytest.raises(ServerFailed):
                asyncio.run(ledger.ask(numbered(number), lambda cost=cost: refuse(cost), Cost(usd=0.3)))
        assert purse(ledger, "r") == {"limit_usd": 1, "spent_usd": 0.3, "reserved_usd": 0}


def test_a_call_cancelled_on_its_way_leaves_no_reservation_and_is_charged(database: str) -> None:
    async def run(ledger: Ledger) -> None:
        on_its_way = asyncio.Event()

        async def send() -> Answer:
            on_its_way.set()
            return await costs(0.1, wait=30)

        task = asyncio.create_task(ledger.ask(numbered(0), send, Cost(usd=0.3)))
        await on_its_way.wait()
        assert purse(ledger, "r")["reserved_usd"] == 0.3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Ledger.open(database, run_id="r", budget_usd=1) as ledger:
        asyncio.run(run(ledger))
        assert purse(ledger, "r") == {"limit_usd": 1, "spent_usd": 0.3, "reserved_usd": 0}
        assert ledger.usage("r")["teacher"]["failed"] == 1


def test_a_call_cancelled_before_it_was_sent_costs_nothing(database: str) -> None:
    async def run(ledger: Ledger) -> None:
        task = asyncio.create_task(ledger.ask(numbered(0), lambda: pytest.fail("was sent"), Cost(usd=0.3)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Ledger.open(database, run_id="r", budget_usd=1) as ledger:
        asyncio.run(run(ledger))
        assert purse(ledger, "r") == {"limit_usd": 1, "spent_usd": 0, "reserved_usd": 0}


def test_a_defect_while_sending_releases_and_charges_too(database: str) -> None:
    async def broken() -> Answer:
        raise ZeroDivisionError("ours")

    with Ledger.open(database, run_id="r", budget_usd=1) as ledger:
        with pytest.raises(ZeroDivisionError):
            asyncio.run(ledger.ask(numbered(0), broken, Cost(usd=0.3)))
        assert purse(ledger, "r") == {"limit_usd": 1, "spent_usd": 0.3, "reserved_usd": 0}


def test_fifty_concurrent_asks_in_each_of_two_processes_never_overspend(database: str) -> None:
    # 100 calls at 0.01 USD want 1 USD; 0.37 USD are there.
    arguments = [(str(first), str(first + 50)) for first in (0, 50)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(DRIVER), "spend", database, f"run{first}", "0.37", first, last],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        for first, last in arguments
    ]
    refused = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    with Ledger.open(database, run_id="reader") as ledger:
        assert purse(ledger, "shared") == {"limit_usd": 0.37, "spent_usd": 0.37, "reserved_usd": 0}
        assert ledger.usage()["teacher"]["paid"] == 37
    assert sum(refused) == 63


def test_two_openings_that_write_off_the_same_lost_call_at_once_do_not_fail(database: str) -> None:
    """On PostgreSQL the second one has read the reservation before the first one's commit."""
    with Ledger.open(database, run_id="r", budget_usd=1):
        pass
    gone = me().rsplit("|", 2)[0] + "|999999999|1.0"
    counted = {"key": "k", "kind": "teacher", "run_id": "r", "tokens_in": 1, "tokens_out": 1, "credits": 0.0}
    row = {**counted, "id": "a" * 32, "budget_key": "r", "micro": 300_000, "owner": gone, "at": ""}
    written = {
        **counted,
        "id": "a" * 32,
        "at": "",
        "status": "lost",
        "usd_micro": 300_000,
        "assumed": True,
        "error": "",
    }
    engine = open_engine(database)
    with engine.begin() as connection:
        connection.execute(insert(ATTEMPTS), written)
        connection.execute(insert(RESERVATIONS), row)
    engine.dispose()
    with Ledger.open(database, run_id="r", budget_key="r") as ledger:
        assert purse(ledger, "r")["spent_usd"] == 0.3 and ledger.usage("r")["teacher"]["lost"] == 1
