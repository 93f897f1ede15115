"""What an artifact has cost: over all runs that worked on it, however they ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from agentflow.access import Access
from agentflow.artifacts.fingerprint import Identity
from agentflow.errors import ServerFailed
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal
from agentflow.ledger.database import open_engine
from agentflow.ledger.models import RESERVATIONS
from agentflow.ledger.places import me
from tasks.context import RunContext
from tasks.making import Effort

TRACES = Identity("traces", 1, {"samples": 1}, {})
OTHERS = Identity("traces", 1, {"samples": 2}, {})


@dataclass
class Run:
    """A run against one ledger, without Prefect: it begins artifacts and pays calls."""

    root: Path
    name: str
    budget_key: str | None = None
    where: RunContext = field(init=False)

    def __post_init__(self) -> None:
        url = f"sqlite:///{self.root / 'ledger.db'}"
        access = Access(ledger_url=url, run_id=self.name, budget_key=self.budget_key)
        self.where = RunContext(root=self.root, recipe="smoke", access=access)

    def begin(self, identity: Identity = TRACES) -> Effort:
        return Effort(self.where, identity)

    def pay(self, number: int, usd: float) -> None:
        async def send() -> Answer:
            return Answer({"number": number}, Cost(tokens_in=10, usd=usd))

        with self.where.access.open_ledger() as ledger:
            asyncio.run(ledger.ask(numbered(number), send, Cost(usd=usd)))

    def fail(self, number: int, usd: float) -> None:
        """A call that timed out: nobody knows what was billed, so the worst case counts."""

        async def send() -> Refusal:
            return Refusal(ServerFailed("504", status=504), None)

        with self.where.access.open_ledger() as ledger, pytest.raises(ServerFailed):
            asyncio.run(ledger.ask(numbered(number), send, Cost(usd=usd)))


def numbered(number: int) -> PaidCall:
    return PaidCall("teacher", "local/0", "m", {"number": number}, 0, "1")


def test_an_artifact_cost_what_all_its_runs_paid_the_failed_ones_too(tmp_path: Path) -> None:
    first, second = Run(tmp_path, "first"), Run(tmp_path, "second")
    first.begin()
    first.pay(0, 27.0)
    first.fail(1, 0.5)
    begun = second.begin()
    second.pay(0, 27.0)
    second.pay(1, 0.04)
    cost = begun.spent()["cost"]
    assert cost["teacher"] == {"paid": 2, "replayed": 1, "failed": 1, "lost": 0}
    assert (cost["usd"], cost["usd_assumed"]) == (27.54, 0.5)
    assert (cost["tokens_in"], cost["runs"]) == (20, 2)


def test_what_a_run_pays_for_another_artifact_is_not_counted(tmp_path: Path) -> None:
    run = Run(tmp_path, "run")
    traces = run.begin()
    run.pay(0, 1.0)
    assert traces.spent()["cost"]["usd"] == 1.0
    others = run.begin(OTHERS)
    run.pay(0, 1.0)  # paid for the first: shared, and free here
    run.pay(1, 0.25)
    cost = others.spent()["cost"]
    assert (cost["usd"], cost["teacher"]["paid"], cost["teacher"]["replayed"]) == (0.25, 1, 1)
    # Made once more, after it was damaged: its history is still what it has cost.
    assert Run(tmp_path, "later").begin().spent()["cost"]["usd"] == 1.0


def test_a_run_that_goes_on_with_something_else_after_a_failure_does_not_charge_it_to_what_failed(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "run")
    run.begin()  # and it failed: nothing was committed
    run.pay(0, 1.0)
    run.begin(OTHERS)
    run.pay(1, 8.0)
    assert Run(tmp_path, "again").begin().spent()["cost"]["usd"] == 1.0


def test_calls_in_flight_when_their_run_was_killed_are_counted_at_their_worst(tmp_path: Path) -> None:
    database = str(tmp_path / "ledger.db")
    Ledger.open(database, run_id="killed", budget_usd=10, budget_key="night").close()
    Run(tmp_path, "killed", "night").begin()
    place, _, start = me().rsplit("|", 2)
    engine = open_engine(database)
    with engine.begin() as connection:
        lost = {"id": "x", "budget_key": "night", "run_id": "killed", "key": numbered(0).key, "kind": "teacher",
                "micro": 300_000, "tokens_in": 1, "tokens_out": 1, "credits": 0.0, "at": "",
                "owner": f"{place}|999999999|{start}"}  # fmt: skip
        connection.execute(insert(RESERVATIONS), lost)
        connection.execute(text("UPDATE budgets SET reserved_micro = 300000"))
    engine.dispose()
    again = Run(tmp_path, "again", "night")
    begun = again.begin()
    again.pay(0, 0.1)
    cost = begun.spent()["cost"]
    assert (cost["usd"], cost["usd_assumed"], cost["teacher"]["lost"]) == (0.4, 0.3, 1)


def test_a_ledger_from_before_efforts_were_kept_is_opened_and_counts_from_now_on(tmp_path: Path) -> None:
    Run(tmp_path, "old").pay(0, 5.0)
    engine = open_engine(str(tmp_path / "ledger.db"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE efforts"))
    engine.dispose()
    run = Run(tmp_path, "new")
    begun = run.begin()
    run.pay(1, 0.5)
    assert begun.spent()["cost"]["usd"] == 0.5
