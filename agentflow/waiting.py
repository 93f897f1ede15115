"""Waiting for calls made at once, so that none that is paid for is given up because another one failed.

In: awaitables. Out: their results in order, or the first failure, but only once all have ended. `asyncio.gather` would
raise at the first failure and leave the others to be cancelled with their event loop: paid, and their answers lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

Result = TypeVar("Result")


async def all_settled(awaitables: Iterable[Awaitable[Result]]) -> list[Result]:
    """All results in order. Raises the first failure in that order after every awaitable has ended."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
