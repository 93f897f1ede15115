"""Programs that the tests of the ledger run as processes of their own: `python ledger_driver.py WHAT DATABASE ...`.

spend DATABASE RUN LIMIT FIRST LAST   ask calls FIRST..LAST at 0.01 USD each at once under one budget of LIMIT USD
slow DATABASE RUN LOG COUNT           ask COUNT calls one batch of 8 at a time; every send appends a line to LOG first
open DATABASE                         open and close
"""

from __future__ import annotations

import asyncio
import os
import sys

from agentflow.errors import BudgetExceeded
from agentflow.ledger import Answer, Cost, Ledger, PaidCall


def numbered(number: int) -> PaidCall:
    return PaidCall("teacher", "local/0", "m", {"number": number}, 0, "1")


async def spend(database: str, run: str, limit: str, first: str, last: str) -> None:
    refused = 0
    with Ledger.open(database, run_id=run, budget_usd=float(limit), budget_key="shared") as ledger:

        async def one(number: int) -> None:
            nonlocal refused

            async def send() -> Answer:
                await asyncio.sleep(0.02)
                return Answer({"number": number}, Cost(usd=0.01))

            try:
                await ledger.ask(numbered(number), send, Cost(usd=0.01))
            except BudgetExceeded:
                refused += 1

        await asyncio.gather(*(one(number) for number in range(int(first), int(last))))
    print(refused)


async def slow(database: str, run: str, log: str, count: str) -> None:
    slots = asyncio.Semaphore(8)
    sent = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Ledger.open(database, run_id=run, budget_usd=1000, budget_key="night") as ledger:

        async def one(number: int) -> None:
            async def send() -> Answer:
                os.write(sent, f"{number}\n".encode())
                await asyncio.sleep(0.02)
                return Answer({"number": number}, Cost(usd=0.01))

            await ledger.ask(numbered(number), send, Cost(usd=0.02), admit=lambda: slots)

        await asyncio.gather(*(one(number) for number in range(int(count))))
    print("done")


async def just_open(database: str) -> None:
    Ledger.open(database, run_id="r").close()


if __name__ == "__main__":
    programs = {"spend": spend, "slow": slow, "open": just_open}
    asyncio.run(programs[sys.argv[1]](*sys.argv[2:]))  # type: ignore[operator]
