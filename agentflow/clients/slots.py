"""How many requests of a client are in flight: up to a number, fewer while the service says that it is too much.

In: what became of each request. Out: slots, first come first served. Additive increase, multiplicative decrease: a 429
halves what is allowed, once for all requests that were on their way together; every answer gives a little back, one
slot for a round of answers [P: Chiu and Jain 1989]. Belongs to one event loop; reads no clock.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Like a semaphore whose size follows the service."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = float(most)
        # Whole slots are given; the rest is the share of the next one.
        self.used = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._unheard = 0
        # Requests that were in flight beside the last 429: theirs say the same thing again.

    async def take(self) -> None:
        """Wait for a slot, which is to be given back."""
        if not self._queue and self.used < int(self.allowed):
            self.used += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """A request that had a slot is over."""
        self.used -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._queue and self.used < int(self.allowed):
            turn = self._queue.popleft()
            if not turn.done():
                self.used += 1
                turn.set_result(None)

    def too_many(self) -> None:
        """A request in flight was refused with 429."""
        if self._unheard > 0:
            self._unheard -= 1
            return
        self.allowed = max(1.0, min(self.allowed, float(self.used)) / 2)
        self._unheard = max(0, self.used - 1)

    def went_well(self) -> None:
        """A request in flight was answered."""
        self._unheard = max(0, self._unheard - 1)
        if self.allowed < self._most:
            self.allowed = min(float(self._most), self.allowed + 1 / self.allowed)
            self._hand_out()
