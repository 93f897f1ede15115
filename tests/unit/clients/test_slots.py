"""How many requests are in flight: never more than allowed, fewer after a 429, and slowly more again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.clients.slots import Slots


async def hold(slots: Slots, count: int) -> None:
    for _ in range(count):
        await slots.take()


async def give_back(slots: Slots, count: int) -> None:
    for _ in range(count):
        slots.give_back()


def test_one_429_halves_and_the_others_of_the_same_round_say_nothing_new() -> None:
    async def run() -> None:
        slots = Slots(16)
        await hold(slots, 16)
        for _ in range(16):
            slots.too_many()
        assert slots.allowed == 8
        await give_back(slots, 16)
        await hold(slots, 8)
        slots.too_many()
        assert slots.allowed == 4

    asyncio.run(run())


def test_the_first_429_counts_from_what_is_in_flight_not_from_what_may_be() -> None:
    async def run() -> None:
        slots = Slots(1000)
        await hold(slots, 10)
        slots.too_many()
        assert slots.allowed == 5

    asyncio.run(run())


def test_a_round_of_answers_gives_one_slot_back_up_to_the_configured_number() -> None:
    async def run() -> None:
        slots = Slots(6)
        await hold(slots, 6)
        slots.too_many()
        assert slots.allowed == 3
        for _ in range(3):
            slots.went_well()
        assert 3.8 < slots.allowed <= 4
        for _ in range(100):
            slots.went_well()
        assert slots.allowed == 6

    asyncio.run(run())


def test_there_is_always_one_slot_and_everybody_gets_a_turn() -> None:
    async def run() -> int:
        slots, done = Slots(8), 0

        async def one() -> None:
            nonlocal done
            await slots.take()
            slots.too_many()
            await asyncio.sleep(0)
            done += 1
            slots.give_back()

        await asyncio.gather(*(one() for _ in range(100)))
        assert slots.allowed >= 1 and slots.used == 0
        return done

    assert asyncio.run(run()) == 100


def test_who_is_cancelled_while_waiting_takes_no_slot_along() -> None:
    async def run() -> None:
        slots = Slots(1)
        await slots.take()
        waiting = [asyncio.create_task(slots.take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        slots.give_back()  # hands the slot to the second, which is cancelled before it notices
        waiting[1].cancel()
        for task in waiting[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(waiting[2], 5)
        assert slots.used == 1

    asyncio.run(run())


@given(st.integers(1, 5), st.lists(st.sampled_from(["ask", "end", "429", "ok", "cancel"]), max_size=60))
def test_never_more_are_in_flight_than_configured(most: int, events: list[str]) -> None:
    async def run() -> None:
        slots, tasks, held = Slots(most), [], 0
        for event in events:
            if event == "ask":
                tasks.append(asyncio.create_task(slots.take()))
            elif event == "cancel" and tasks:
                tasks.pop().cancel()
            elif event == "429" and slots.used:
                slots.too_many()
            elif event == "ok" and slots.used:
                slots.went_well()
            await asyncio.sleep(0)
            ready = [task for task in tasks if task.done()]
            if event == "end" and ready:
                tasks.remove(ready[0])
                slots.give_back()
            held = max(held, slots.used)
            assert slots.used <= most and 1 <= slots.allowed <= most
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
