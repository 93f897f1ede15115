"""Waiting: for calls made at once, none given up because another failed, and with deadlines that queueing does not eat.

In: awaitables. Out: their results in order, or the first failure, but only once all have ended. `asyncio.gather` would
raise at the first failure and leave the others to be cancelled with their event loop: paid, and their answers lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

Result = TypeVar("Result")


class _Deadline:
    """An `asyncio.Timeout` that stands still while somebody under it is `unhurried`."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._waiting = 0
        self._left_s = 0.0
        self.over = False
        # A task that was begun under the deadline may outlive it.

    @property
    def _runs(self) -> bool:
        return not self.over and not self._timeout.expired()

    def pause(self) -> None:
        self._waiting += 1
        when = self._timeout.when()
        if self._waiting == 1 and self._runs and when is not None:
            self._left_s = when - asyncio.get_running_loop().time()
            self._timeout.reschedule(None)

    def resume(self) -> None:
        self._waiting -= 1
        if self._waiting == 0 and self._runs:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left_s)


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError if the block takes longer, what was spent `unhurried` in it not counted."""
    async with asyncio.timeout(seconds) as timeout:
        deadline = _Deadline(timeout)
        token = _deadline.set(deadline)
        try:
            yield
        finally:
            deadline.over = True
            _deadline.reset(token)


@contextmanager
def unhurried() -> Iterator[None]:
    """Around a wait for one's turn (a slot, a limit of requests a minute): it is no fault of the call that waits."""
    deadline = _deadline.get()
    if deadline is None:
        yield
        return
    deadline.pause()
    try:
        yield
    finally:
        deadline.resume()


async def to_its_end(work: Future[Result]) -> Result:
    """The result of `work` of another thread, which is waited for also by a task that was cancelled meanwhile: the
    cancellation is raised when `work` has ended.
    """
    waiting = asyncio.wrap_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        waiting.exception()  # looked at, so that nobody calls it forgotten
        raise cancelled
    return waiting.result()


async def all_settled(awaitables: Iterable[Awaitable[Result]], at_once: int | None = None) -> list[Result]:
    """All results in order. Raises the first failure in that order after every awaitable has ended.

    With `at_once` no more than so many are begun before others have ended: `awaitables` may then be a long generator.
    """
    if at_once is None:
        results = await asyncio.gather(*awaitables, return_exceptions=True)
    else:
        results = await _in_turns(awaitables, at_once)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _in_turns(awaitables: Iterable[Awaitable[Result]], at_once: int) -> list[Result | BaseException]:
    waiting = enumerate(awaitables)
    settled: dict[int, Result | BaseException] = {}

    async def work() -> None:
        for at, one in waiting:
            try:
                settled[at] = await one
            except Exception as error:
                settled[at] = error

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [settled[at] for at in range(len(settled))]
