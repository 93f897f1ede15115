"""Who is at a search right now, over all processes: the others wait for its answer instead of paying for it too.

A claim lasts from before the call until its answer is stored or it failed. Workers that answer or roll out side by side
look the same things up; teacher calls are made from plans in which no call stands twice, and need none. Ours.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, select

from agentflow.ledger.database import insert_new
from agentflow.ledger.models import CLAIMS
from agentflow.ledger.places import is_surely_dead
from agentflow.waiting import unhurried

CLAIMED = frozenset({"search"})
# Kinds of calls that are claimed.
POLL_S = 0.1
LEASE_S = 600.0
# Behind any deadline of a call: a claim this old was left by a process of another host that died.
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


class Claims:
    """The claims of one ledger; `submit` queues an entry for its writer, `later` one that nobody waits for."""

    def __init__(
        self,
        submit: Callable[[Claim | Unclaim], Future[Any]],
        later: Callable[[Claim | Unclaim], None],
        owner: str,
    ) -> None:
        self._submit, self._later, self._owner, self._id = submit, later, owner, uuid.uuid4().hex

    async def take(self, key: str) -> None:
        """Return when the call is this ledger's to make. Raises StoreError."""
        while (holder := await self._ask(key)) is not None:
            if is_surely_dead(holder["owner"]) or time.time() - holder["at"] > LEASE_S:
                await asyncio.wrap_future(self._submit(Unclaim(key, holder["id"])))
                continue
            with unhurried():  # that call has a deadline of its own
                await asyncio.sleep(POLL_S)

    def free(self, key: str) -> None:
        """Give the call up, behind whatever is queued."""
        self._later(Unclaim(key, self._id))

    async def _ask(self, key: str) -> Row | None:
        row = {"key": key, "id": self._id, "owner": self._owner, "at": time.time()}
        try:
            holder: Row | None = await asyncio.wrap_future(self._submit(Claim(row)))
        except asyncio.CancelledError:
            self.free(key)
            raise
        return holder


def apply(engine: Engine, connection: Connection, entries: Sequence[Claim | Unclaim]) -> list[Row | None]:
    """All entries, in the order of their keys, so that two processes on PostgreSQL lock rows in the same order."""
    results: list[Row | None] = [None] * len(entries)
    for at, entry in sorted(enumerate(entries), key=lambda each: _key(each[1])):
        if isinstance(entry, Unclaim):
            connection.execute(delete(CLAIMS).where(CLAIMS.c.key == entry.key, CLAIMS.c.id == entry.id))
        else:
            results[at] = _claim(engine, connection, entry.row)
    return results


def _claim(engine: Engine, connection: Connection, row: Row) -> Row | None:
    holder = None
    while holder is None:  # given up between the two statements
        connection.execute(insert_new(engine, CLAIMS), row)
        holder = connection.execute(select(CLAIMS).where(CLAIMS.c.key == row["key"])).mappings().one_or_none()
    return None if holder["id"] == row["id"] else dict(holder)


def _key(entry: Claim | Unclaim) -> str:
    return str(entry.row["key"]) if isinstance(entry, Claim) else entry.key
