"""Waiting for calls made at once: order, failures, and how many are begun."""

from __future__ import annotations

import asyncio

import pytest

from agentflow.waiting import all_settled, unhurried, within


@pytest.mark.parametrize("at_once", [None, 1, 3, 100])
def test_results_come_in_order_and_a_failure_only_when_all_have_ended(at_once: int | None) -> None:
    ended: list[int] = []

    async def one(number: int, fails: bool = False) -> int:
        await asyncio.sleep(0.001 * (7 - number))
        ended.append(number)
        if fails:
            raise ValueError(str(number))
        return number

    assert asyncio.run(all_settled((one(number) for number in range(7)), at_once)) == list(range(7))
    ended.clear()
    with pytest.raises(ValueError, match="2"):
        asyncio.run(all_settled((one(number, number in (2, 5)) for number in range(7)), at_once))
    assert sorted(ended) == list(range(7))


def test_no_more_are_begun_than_allowed_and_nothing_is_made_before_its_turn() -> None:
    made = running = most = 0

    async def one() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    def all_of_them():
        nonlocal made
        for _ in range(50):
            made += 1
            yield one()

    asyncio.run(all_settled(all_of_them(), 4))
    assert (most, made) == (4, 50)


def test_cancelling_the_wait_cancels_what_is_under_way() -> None:
    cancelled = 0

    async def one() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async def run() -> None:
        task = asyncio.create_task(all_settled((one() for _ in range(10)), 3))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert cancelled == 3


def test_a_deadline_counts_what_is_done_and_not_the_wait_for_ones_turn() -> None:
    async def work(seconds: float, queued_s: float) -> str:
        async with within(0.2):
            with unhurried():
                await asyncio.sleep(queued_s)
            await asyncio.sleep(seconds)
        return "done"

    async def run() -> list[str | BaseException]:
        return await asyncio.gather(work(0.0, 0.4), work(5.0, 0.0), work(5.0, 0.3), return_exceptions=True)

    patient, slow, both = asyncio.run(run())
    assert patient == "done" and isinstance(slow, TimeoutError) and isinstance(both, TimeoutError)


def test_waits_under_one_deadline_may_overlap_outlive_it_and_be_cancelled() -> None:
    async def run() -> None:
        async def queue(seconds: float) -> None:
            with unhurried():
                await asyncio.sleep(seconds)

        async with within(0.2):
            left_over = asyncio.create_task(queue(0.5))
            given_up = asyncio.create_task(queue(5))
            await queue(0.3)
            given_up.cancel()
        await left_over
        with pytest.raises(TimeoutError):
            async with within(0.05):
                await asyncio.gather(queue(0.01), asyncio.sleep(5))
        with unhurried():
            pass  # where nothing has a deadline

    asyncio.run(run())
