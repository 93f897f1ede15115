"""Who is at a search right now, over all processes: the others wait for its answer instead of paying for it too.

A claim lasts from before the call until its answer is stored or it failed, and who holds it renews it. Workers that
answer or roll out side by side look the same things up. Teacher calls hardly ever meet (a stage is made by one run at a
time) and would take a tenth longer (measured), so they are not claimed: runs that differ in a later field, or samples
with the very same reasoning in two batches, both pay if they ask the same at the same moment.
A process of this host that is gone holds nobody up; any other holder counts until it has not renewed for a while, by
the waiter's own clock. If it fell silent but lives (it was stopped, or cut off from the database), its call may be paid
twice; nobody can know better from here. Ours.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update

from agentflow.ledger.database import insert_new
from agentflow.ledger.models import CLAIMS
from agentflow.ledger.places import is_alive
from agentflow.waiting import unhurried

POLL_S = 0.1
CLAIMED = frozenset({"search"})
# Kinds of calls that are claimed.
RENEW_S = 20.0
LEASE_S = 120.0
# A claim that was not renewed for so long was left behind: by a process of another host that died, or on a full disk.
Row = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """Ask for a call to be one's own. Result: None if it is, else the row of who has it."""

    row: Row


@dataclass(frozen=True)
class Unclaim:
    """Give a claim up. Result: None."""

    key: str
    id: str


@dataclass(frozen=True)
class Renew:
    """Say that a claim's holder still is at it. Result: None."""

    key: str
    id: str
    at: float


ClaimEntry = Claim | Unclaim | Renew


class Claims:
    """The claims of one ledger; `submit` queues an entry for its writer, `later` one that nobody waits for."""

    def __init__(
        self,
        submit: Callable[[ClaimEntry], Future[Any]],
        later: Callable[[ClaimEntry], None],
        owner: str,
    ) -> None:
        self._submit, self._later, self._owner, self._id = submit, later, owner, uuid.uuid4().hex

    @asynccontextmanager
    async def held(self, key: str) -> AsyncIterator[None]:
        """The call is this ledger's to make inside; waits until it is. Raises StoreError."""
        await self._take(key)
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def renew() -> None:
            nonlocal timer
            self._later(Renew(key, self._id, time.time()))
            timer = loop.call_later(RENEW_S, renew)

        timer = loop.call_later(RENEW_S, renew)
        try:
            yield
        finally:
            timer.cancel()
            self._later(Unclaim(key, self._id))  # behind whatever is queued

    async def _take(self, key: str) -> None:
        seen: tuple[str, float] | None = None
        since = time.monotonic()
        while (holder := await self._ask(key)) is not None:
            if seen != (holder["id"], holder["at"]):
                seen, since = (holder["id"], holder["at"]), time.monotonic()
            if is_alive(holder["owner"]) is False or time.monotonic() - since > LEASE_S:
                await asyncio.wrap_future(self._submit(Unclaim(key, holder["id"])))
                continue
            with unhurried():  # that call has a deadline of its own
                await asyncio.sleep(POLL_S)

    async def _ask(self, key: str) -> Row | None:
        row = {"key": key, "id": self._id, "owner": self._owner, "at": time.time()}
        try:
            holder: Row | None = await asyncio.wrap_future(self._submit(Claim(row)))
        except asyncio.CancelledError:
            self._later(Unclaim(key, self._id))
            raise
        return holder


def apply(engine: Engine, connection: Connection, entries: Sequence[ClaimEntry]) -> list[Row | None]:
    """All entries, in the order of their keys, so that two processes on PostgreSQL lock rows in the same order."""
    results: list[Row | None] = [None] * len(entries)
    for at, entry in sorted(enumerate(entries), key=lambda each: _key(each[1])):
        if isinstance(entry, Claim):
            results[at] = _claim(engine, connection, entry.row)
            continue
        own = (CLAIMS.c.key == entry.key, CLAIMS.c.id == entry.id)
        if isinstance(entry, Renew):
            connection.execute(update(CLAIMS).where(*own).values(at=entry.at))
        else:
            connection.execute(delete(CLAIMS).where(*own))
    return results


def _claim(engine: Engine, connection: Connection, row: Row) -> Row | None:
    holder = None
    while holder is None:  # given up between the two statements
        connection.execute(insert_new(engine, CLAIMS), row)
        holder = connection.execute(select(CLAIMS).where(CLAIMS.c.key == row["key"])).mappings().one_or_none()
    return None if holder["id"] == row["id"] else dict(holder)


def _key(entry: ClaimEntry) -> str:
    return str(entry.row["key"]) if isinstance(entry, Claim) else entry.key
