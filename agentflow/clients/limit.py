"""Requests and tokens a minute of one key: what waits here goes when the ledger's sliding log has room for it.

In: calls of one client with the tokens each may take. Out: permission, in the order of asking; what was really used
goes back. A Retry-After that one process got is waited for by all that use the key, limits or not. All calls that wait
share one conversation with the database, a chunk at a time, so that thousands of them cost it a few transactions a
second. Belongs to one event loop; promise and clock stand in `agentflow.ledger.limits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import time
import uuid
from collections import deque
from dataclasses import dataclass

from agentflow.ledger import Ledger
from agentflow.ledger.limits import Extend, Grant, Pause, Settle, burst_of

_LARGEST_CHUNK = 128
_LATE_S = 0.25
# A grant that took longer than this to come back counts from when it came back.
_JITTER_S = 0.02
# Processes that wait for the same instant come in another order each time.
_LOOK_S = 1.0
# Without limits: how old what is known of others' Retry-After may be.


@dataclass
class _Waiting:
    id: str
    tokens: int
    turn: asyncio.Future[None]


class Limiter:
    """The limits of one key as one client sees them; without limits only a Retry-After of the key holds calls up."""

    def __init__(
        self,
        ledger: Ledger,
        key: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        hold_s: float = 0.0,
    ) -> None:
        self._ledger, self._key = ledger, key
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._hold_us = round(1e6 * hold_s)
        self._queue: deque[_Waiting] = deque()
        self._freed = asyncio.Event()
        self._given_up = False
        self._asking: asyncio.Task[None] | None = None
        self._look_at = self._paused_until = 0.0
        # On the local monotonic clock: when to look for a pause again, and until when the last one seen lasts.
        self._looking: asyncio.Task[None] | None = None
        # Smaller than what may go at once, so that other processes get their share of it.
        share = _LARGEST_CHUNK if requests_per_minute is None else burst_of(requests_per_minute) // 4
        self._chunk = max(1, min(_LARGEST_CHUNK, share))

    @property
    def limited(self) -> bool:
        """Whether there is anything to wait for."""
        return self._requests is not None or self._tokens is not None

    async def acquire(self, tokens: int) -> str | None:
        """Wait until a call that takes at most `tokens` may go; what `settle` needs to know. Raises StoreError."""
        if not self.limited:
            await self._until_no_pause()
            return None
        waiting = _Waiting(uuid.uuid4().hex, tokens, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                self.settle(waiting.id, 0)
            raise
        return waiting.id

    def settle(self, permit: str | None, tokens: int | None) -> None:
        """A permitted call ended and took `tokens`; None if nobody knows, then its worst case stays counted."""
        if permit is not None and self._tokens is not None:
            self._ledger.limit_later(Settle(self._key, permit, tokens))
            self._freed.set()

    def pause(self, seconds: float) -> None:
        """A Retry-After: no process that uses the key asks for so long."""
        self._ledger.limit_later(Pause(self._key, seconds))

    def give_up(self, failure: Exception) -> None:
        """Nothing will be sent any more: whoever waits for a limit gets `failure`; a pause ends."""
        self._given_up = True
        while self._queue:
            turn = self._queue.popleft().turn
            if not turn.done():
                turn.set_exception(copy.copy(failure))
        self._freed.set()

    async def _until_no_pause(self) -> None:
        """Wait for a Retry-After of any process; only the first look at the ledger is waited for."""
        first = not self._look_at
        while True:
            if self._looking is None and time.monotonic() >= self._look_at:
                self._looking = asyncio.create_task(self._look())
            if self._looking is not None and (first or self._looking.done()):
                await asyncio.shield(self._looking)
                first, self._looking = False, None
            wait_s = min(self._paused_until - time.monotonic(), _LOOK_S)
            if wait_s <= 0 or self._given_up:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._freed.wait()

    async def _look(self) -> None:
        granted = await self._ledger.limit(Grant(self._key, None, None, (), ()))
        assert granted is not None
        now = time.monotonic()
        self._paused_until, self._look_at = now + granted.wait_s, now + _LOOK_S

    async def _ask(self) -> None:
        """Until nobody waits: ask for the next chunk, let go what was granted, wait as long as the log says."""
        try:
            while self._queue:
                self._freed.clear()
                wait_s = await self._ask_once()
                if wait_s > 0 and self._queue:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s + random.uniform(0, _JITTER_S)):
                            await self._freed.wait()
        except Exception as error:  # the ledger failed: so does every call that relies on it
            self.give_up(error)

    async def _ask_once(self) -> float:
        while self._queue and self._queue[0].turn.done():
            self._queue.popleft()  # cancelled
        chunk = [self._queue[index] for index in range(min(self._chunk, len(self._queue)))]
        if not chunk:
            return 0.0
        ids, tokens = tuple(one.id for one in chunk), tuple(one.tokens for one in chunk)
        granted = await self._ledger.limit(Grant(self._key, self._requests, self._tokens, ids, tokens, self._hold_us))
        assert granted is not None
        late = time.monotonic() - granted.at > _LATE_S
        for one in chunk[: granted.count]:
            if self._queue and self._queue[0] is one:
                self._queue.popleft()
            if one.turn.done():
                self.settle(one.id, 0)
            else:
                one.turn.set_result(None)
            if late and not granted.entry:
                self._ledger.limit_later(Extend(self._key, one.id))
        if late and granted.entry:
            self._ledger.limit_later(Extend(self._key, granted.entry))
        return granted.wait_s
