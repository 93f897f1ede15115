"""Requests and tokens a minute of one API key, held by all processes that use it: a sliding log with reservations.

In: `Grant` (may these requests go now?), `Settle` (what they really took), `Pause` (a Retry-After for everybody). Out:
how many may go, and when to ask again. Each is part of a transaction of the ledger. Does not wait; see `clients.limit`.

No wall clock is read. Every limit has a clock of its own in the database, in microseconds: whoever comes advances it by
what has passed on the monotonic clock of their machine since somebody of that machine, or they themselves, were here
last. It never runs ahead of real time, so a window is never shorter than a minute; it stands still while nobody who
knows it is alive, which can only make the next caller wait. [O]

    limit 600 a minute, 20 wait at clock 5 s   ->  granted 20, counted until 66 s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, update

from agentflow.ledger.database import insert_new, upsert
from agentflow.ledger.models import RATE_LIMITS, RATE_LOG
from agentflow.ledger.places import boot

WINDOW_US = 60_000_000
MARGIN_US = 1_000_000
# A request counts so much longer than a minute here: from its grant to its arrival time passes, not always the same.
SPREAD_US = 2_000_000
# No more than the limit's share of so many microseconds (rounded up) go in them, since services count in shorter
# windows than they say.
_TOKENS_AGAIN_US = 500_000
_SHORTEST_WAIT_US = 5_000


@dataclass(frozen=True)
class Grant:
    """Ask for the first of some requests to go now. Result: `Granted`."""

    key: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    ids: tuple[str, ...]
    # Of requests in the order of asking; 32 characters each.
    tokens: tuple[int, ...]
    # What each may take at most.
    hold_us: int = 0
    # How long a call can be under way: its worst case counts so long and a window more, unless it is settled.


@dataclass(frozen=True)
class Granted:
    """How many of the asked may go."""

    count: int
    wait_s: float
    # Until the next may; 0 if all may go.
    at: float
    # The local monotonic clock at the grant, seconds.
    entry: str = ""
    # Under which id the requests are logged, if all under one.


@dataclass(frozen=True)
class Settle:
    """A granted call ended. Result: None."""

    key: str
    id: str
    tokens: int | None = None
    # What the service counted; None leaves the reserved worst case.


@dataclass(frozen=True)
class Extend:
    """Granted requests were sent late: they count from now. Result: None."""

    key: str
    id: str
    # As in `Granted.entry`.


@dataclass(frozen=True)
class Pause:
    """Nobody who uses the key may ask for so long. Result: None."""

    key: str
    seconds: float


LimitEntry = Grant | Settle | Extend | Pause


class Limits:
    """The transactions of all limits, for one process."""

    def __init__(
        self, engine: Engine, *, place: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._place = boot() if place is None else place
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        # The limit's clock as this process saw it last, and its own clock then.

    def apply(self, connection: Connection, entries: Sequence[LimitEntry]) -> list[Granted | None]:
        """Do `entries` within the caller's transaction; one result each."""
        instants: dict[str, tuple[int, int]] = {}
        results: dict[int, Granted | None] = {}
        # By key everywhere, so that two processes on PostgreSQL lock the limits in the same order.
        for at, entry in sorted(enumerate(entries), key=lambda pair: pair[1].key):
            if entry.key not in instants:
                instants[entry.key] = self._advance(connection, entry.key)
            now, not_before = instants[entry.key]
            if isinstance(entry, Pause):
                instants[entry.key] = now, max(not_before, now + round(1e6 * entry.seconds))
            results[at] = self._apply(connection, entry, now, not_before)
        return [results[at] for at in range(len(entries))]

    def _apply(self, connection: Connection, entry: LimitEntry, now: int, not_before: int) -> Granted | None:
        if isinstance(entry, Grant):
            return self._grant(connection, entry, now, not_before)
        if isinstance(entry, Settle):
            self._settle(connection, entry, now)
        elif isinstance(entry, Extend):
            changed = update(RATE_LOG).where(RATE_LOG.c.id == entry.id, RATE_LOG.c.limit_key == entry.key)
            connection.execute(changed.values(at_us=now, until_us=now + WINDOW_US + MARGIN_US))
        else:
            until = now + round(1e6 * entry.seconds)
            changed = update(RATE_LIMITS).where(RATE_LIMITS.c.key == entry.key, RATE_LIMITS.c.not_before_us < until)
            connection.execute(changed.values(not_before_us=until))
        return None

    def _advance(self, connection: Connection, key: str) -> tuple[int, int]:
        """The limit's clock now and the instant before which nobody asks. Holds the limit until the commit."""
        fresh = {"key": key, "clock_us": 0, "place": self._place, "place_us": 0, "not_before_us": 0}
        fresh["place_us"] = int(self._clock() * 1e6)
        connection.execute(upsert(self._engine, RATE_LIMITS).values(fresh).on_conflict_do_nothing())
        row = connection.execute(select(RATE_LIMITS).where(RATE_LIMITS.c.key == key).with_for_update()).one()
        here = self._clock()  # only now: taking the lock may have taken long
        instants = [row.clock_us]
        if row.place == self._place and here * 1e6 > row.place_us:
            instants.append(row.clock_us + int(here * 1e6 - row.place_us))
        if key in self._seen:
            seen, then = self._seen[key]
            instants.append(seen + int((here - then) * 1e6))
        now = max(instants)
        self._seen[key] = (now, here)
        changed = update(RATE_LIMITS).where(RATE_LIMITS.c.key == key)
        connection.execute(changed.values(clock_us=now, place=self._place, place_us=int(here * 1e6) + 1))
        return now, row.not_before_us

    def _grant(self, connection: Connection, asked: Grant, now: int, not_before: int) -> Granted:
        here = self._seen[asked.key][1]
        if not_before > now:
            return Granted(0, (not_before - now) / 1e6, here)
        mine = RATE_LOG.c.limit_key == asked.key
        connection.execute(delete(RATE_LOG).where(mine, RATE_LOG.c.until_us <= now, RATE_LOG.c.tokens_until_us <= now))
        count = len(asked.ids)
        if asked.requests_per_minute is not None:
            count = min(count, *self._room_for_requests(connection, asked.key, asked.requests_per_minute, now))
        granted = self._fitting(connection, asked, now, count)
        if granted:
            connection.execute(insert_new(self._engine, RATE_LOG), self._rows(asked, granted, now))
        wait_us = 0 if granted == len(asked.ids) else self._wait_us(connection, asked, granted, now)
        shared = asked.ids[0] if granted and asked.tokens_per_minute is None else ""
        return Granted(granted, wait_us / 1e6, here, shared)

    def _room_for_requests(self, connection: Connection, key: str, limit: int, now: int) -> tuple[int, int]:
        """How many more may go in this minute, and how many in this short window."""
        total = select(func.coalesce(func.sum(RATE_LOG.c.requests), 0)).where(RATE_LOG.c.limit_key == key)
        minute = connection.scalar(total.where(RATE_LOG.c.until_us > now)) or 0
        short = connection.scalar(total.where(RATE_LOG.c.at_us > now - SPREAD_US)) or 0
        return max(0, limit - int(minute)), max(0, burst_of(limit) - int(short))

    def _fitting(self, connection: Connection, asked: Grant, now: int, count: int) -> int:
        """How many of the first `count` fit into the tokens of the window."""
        if asked.tokens_per_minute is None:
            return count
        left = asked.tokens_per_minute - self._tokens(connection, asked.key, now)
        for index in range(count):
            left -= min(asked.tokens[index], asked.tokens_per_minute)
            if left < 0:
                return index
        return count

    def _tokens(self, connection: Connection, key: str, now: int) -> int:
        counted = select(func.coalesce(func.sum(RATE_LOG.c.tokens), 0))
        return int(connection.scalar(counted.where(RATE_LOG.c.limit_key == key, RATE_LOG.c.tokens_until_us > now)) or 0)

    def _rows(self, asked: Grant, granted: int, now: int) -> list[dict[str, Any]]:
        """One row a request where tokens are settled later; else one row for all of them, which costs less."""
        until = now + WINDOW_US + MARGIN_US
        row: dict[str, Any] = {"limit_key": asked.key, "at_us": now, "until_us": until, "requests": granted}
        if asked.tokens_per_minute is None:
            return [{**row, "id": asked.ids[0], "tokens": 0, "tokens_until_us": now}]
        most = asked.tokens_per_minute
        held = {"requests": 1, "tokens_until_us": until + asked.hold_us}
        pairs = list(zip(asked.ids, asked.tokens, strict=True))[:granted]
        return [{**row, **held, "id": one, "tokens": min(tokens, most)} for one, tokens in pairs]

    def _wait_us(self, connection: Connection, asked: Grant, granted: int, now: int) -> int:
        """Until the first that had to wait may go, as far as it is known today."""
        waits = [_SHORTEST_WAIT_US]
        mine = RATE_LOG.c.limit_key == asked.key
        if asked.requests_per_minute is not None:
            minute, short = self._room_for_requests(connection, asked.key, asked.requests_per_minute, now)
            if not minute:
                first = select(func.min(RATE_LOG.c.until_us)).where(mine, RATE_LOG.c.until_us > now)
                waits.append(int(connection.scalar(first) or now) - now)
            if not short:
                first = select(func.min(RATE_LOG.c.at_us)).where(mine, RATE_LOG.c.at_us > now - SPREAD_US)
                waits.append(int(connection.scalar(first) or now) + SPREAD_US - now)
        if asked.tokens_per_minute is not None:
            waits.append(self._wait_for_tokens(connection, asked, granted, now))
        return max(waits)

    def _wait_for_tokens(self, connection: Connection, asked: Grant, granted: int, now: int) -> int:
        assert asked.tokens_per_minute is not None
        need = min(asked.tokens[granted], asked.tokens_per_minute)
        if self._tokens(connection, asked.key, now) + need <= asked.tokens_per_minute:
            return 0
        first = select(func.min(RATE_LOG.c.tokens_until_us))
        first = first.where(RATE_LOG.c.limit_key == asked.key, RATE_LOG.c.tokens_until_us > now)
        # Calls under way are held at their worst case and mostly free room long before that.
        return min(int(connection.scalar(first) or now) - now, _TOKENS_AGAIN_US)

    def _settle(self, connection: Connection, entry: Settle, now: int) -> None:
        """What was used counts for a window from now: a service can count an answer's tokens only when it is there."""
        values = {"tokens_until_us": now + WINDOW_US}
        if entry.tokens is not None:
            values["tokens"] = entry.tokens
        changed = update(RATE_LOG).where(RATE_LOG.c.id == entry.id, RATE_LOG.c.limit_key == entry.key)
        connection.execute(changed.values(values))


def burst_of(requests_per_minute: int) -> int:
    """Requests that may go within SPREAD_US."""
    return max(1, -(-requests_per_minute * SPREAD_US // WINDOW_US))
