"""Waiting for calls made at once, so that none that is paid for is given up because another one failed.

In: awaitables. Out: their results in order, or the first failure, but only once all have ended. `asyncio.gather` would
raise at the first failure and leave the others to be cancelled with their event loop: paid, and their answers lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

Result = TypeVar("Result")


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
