"""Who is at a paid call right now, over all processes: the others wait for its answer instead of paying for it too.

A claim lasts from before the call until its answer is stored or it failed, and who holds it renews it. Workers that
answer or roll out side by side look the same things up; runs that differ in a later field ask a teacher the same.
A process of this host that is gone holds nobody up; any other holder counts until it has not renewed for a while, by
the waiter's own clock. If it fell silent but lives (it was stopped, or cut off from the database), its call may be paid
twice; nobody can know better from here. Ours.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, delete, select, update

from agentflow.ledger.database import in_chunks, insert_new
from agentflow.ledger.models import CALLS, CLAIMS
from agentflow.ledger.places import is_alive
from agentflow.waiting import unhurried

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 1.0
# Between two looks at a call that another one is at: hundreds may wait so.
RENEW_S = 20.0
LEASE_S = 120.0
# A claim that was not renewed for so long was left behind: by a process of another host that died, or on a full disk.


@dataclass(frozen=True)
class Claim:
    """Ask for a call to be one's own. Result: a `Standing`."""

    key: str
    # Of the call, as in `calls`; the fields are those of `claims`.
    id: str
    owner: str
    at: float


@dataclass(frozen=True)
class Unclaim:
    """Give a claim up. Result: None."""

    key: str
    id: str


@dataclass(frozen=True)
class Renew:
    """Say that a holder still is at its calls. Result: None."""

    keys: Sequence[str]
    id: str
    at: float


@dataclass(frozen=True)
class Standing:
    """How a call stands that was asked for."""

    holder: Claim | None = None
    # Who has it; None if it is one's own now.
    answered: bool = False
    # Whether an answer is stored, of whatever age and state.


ClaimEntry = Claim | Unclaim | Renew


class Claims:
    """The claims of one ledger; `submit` queues an entry for its writer, `later` one that nobody waits for.

    One thread renews them all: thousands of calls may wait for their turn at once.
    """

    def __init__(
        self,
        submit: Callable[[ClaimEntry], Future[Any]],
        later: Callable[[ClaimEntry], None],
        owner: str,
    ) -> None:
        self._submit, self._later, self._owner = submit, later, owner
        self.id = uuid.uuid4().hex
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._renewer: threading.Thread | None = None

    async def take(self, key: str, check: Callable[[], None] | None = None) -> bool:
        """Wait until the call is this ledger's to make, until `release`. Raises StoreError.

        `check` is called before each look at another's claim: what it raises ends the wait. Returns whether an answer
        is stored by now: whoever had the call has stored it, unless it failed.
        """
        answered = await self._take(key, check)
        with self._lock:
            self._held.add(key)
            if self._renewer is None:
                renewer = threading.Thread(target=self._renew, name="ledger-claims", daemon=True)
                renewer.start()
                self._renewer = renewer
        return answered

    def release(self, key: str) -> None:
        """Give the call up if it still is this ledger's, behind whatever is queued."""
        if self.forget(key):
            self._later(Unclaim(key, self.id))

    def forget(self, key: str) -> bool:
        """Renew no more a claim that was given up with what came of its call. Returns whether there was one."""
        with self._lock:
            was_held = key in self._held
            self._held.discard(key)
        return was_held

    def close(self) -> None:
        """Renew nothing any more."""
        self._closing.set()
        if self._renewer is not None:
            self._renewer.join()

    def _renew(self) -> None:
        while not self._closing.wait(RENEW_S):
            with self._lock:
                held = tuple(self._held)
            if held:
                self._later(Renew(held, self.id, time.time()))

    async def _take(self, key: str, check: Callable[[], None] | None) -> bool:
        seen: tuple[str, float] | None = None
        wait_s, since = FIRST_WAIT_S, time.monotonic()
        with unhurried():  # the call that is waited for has a deadline of its own
            while True:
                asked = time.monotonic()
                standing = await self._ask(key)
                if (holder := standing.holder) is None:
                    return standing.answered
                # Where this took long the database was held up, and the holder could not renew either.
                if seen != (holder.id, holder.at) or time.monotonic() - asked > RENEW_S:
                    seen, since = (holder.id, holder.at), time.monotonic()
                if is_alive(holder.owner) is False or time.monotonic() - since > LEASE_S:
                    await asyncio.wrap_future(self._submit(Unclaim(key, holder.id)))
                    continue
                await asyncio.sleep(wait_s)
                if check is not None:
                    check()
                wait_s = min(LONGEST_WAIT_S, 1.5 * wait_s)

    async def _ask(self, key: str) -> Standing:
        claim = Claim(key, self.id, self._owner, time.time())
        try:
            standing: Standing = await asyncio.wrap_future(self._submit(claim))
        except BaseException:
            self._later(Unclaim(key, self.id))
            raise
        return standing


def apply(engine: Engine, connection: Connection, entries: Sequence[ClaimEntry]) -> list[Standing | None]:
    """All entries, in few statements: of one key in their order, of different keys in any.

    Claims come before what gives them up, both sorted by key, so that two processes on PostgreSQL mostly lock rows in
    the same order; where they did not, the database undoes one of them, and it is done again.
    """
    results: list[Standing | None] = [None] * len(entries)
    for group in _one_of_each_key(entries):
        standings = _claim(
            engine, connection, {key: entry for key, (_, entry) in group.items() if isinstance(entry, Claim)}
        )
        given_up = [
            {"own_key": key, "own_id": entry.id} for key, (_, entry) in group.items() if isinstance(entry, Unclaim)
        ]
        if given_up:
            own = (CLAIMS.c.key == bindparam("own_key"), CLAIMS.c.id == bindparam("own_id"))
            connection.execute(delete(CLAIMS).where(*own), given_up)
        for key, (at, _) in group.items():
            results[at] = standings.get(key)
    for renewed in (entry for entry in entries if isinstance(entry, Renew)):
        for keys in in_chunks(renewed.keys):
            own = (CLAIMS.c.key.in_(keys), CLAIMS.c.id == renewed.id)
            connection.execute(update(CLAIMS).where(*own).values(at=renewed.at))
    return results


def _one_of_each_key(entries: Sequence[ClaimEntry]) -> Iterator[dict[str, tuple[int, Claim | Unclaim]]]:
    """The claims made and given up with their places, by their keys, sorted; cut where a key comes again."""
    group: dict[str, tuple[int, Claim | Unclaim]] = {}
    for at, entry in enumerate(entries):
        if isinstance(entry, Renew):
            continue
        if entry.key in group:
            yield dict(sorted(group.items()))
            group = {}
        group[entry.key] = (at, entry)
    yield dict(sorted(group.items()))


def _claim(engine: Engine, connection: Connection, claims: dict[str, Claim]) -> dict[str, Standing]:
    standings: dict[str, Standing] = {}
    while wanted := {key: claim for key, claim in claims.items() if key not in standings}:
        connection.execute(insert_new(engine, CLAIMS), [vars(claim) for claim in wanted.values()])
        for keys in in_chunks(wanted):
            answered = set(connection.scalars(select(CALLS.c.key).where(CALLS.c.key.in_(keys))))
            # No row for a key whose claim was given up between the two statements: it is asked for again.
            for row in connection.execute(select(CLAIMS).where(CLAIMS.c.key.in_(keys))).mappings():
                holder = Claim(**row)
                own = holder.id == wanted[holder.key].id
                standings[holder.key] = Standing(None if own else holder, holder.key in answered)
    return standings
