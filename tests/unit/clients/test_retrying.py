"""Waiting and giving up, on a virtual clock: no test here sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentflow.clients.retry import CircuitOpen, Pacer, Patience
from agentflow.errors import AuthFailed, CallTimeout, CutAnswer, RateLimited, ServerFailed, ServiceFailure


class Clock:
    """Virtual seconds; sleeping moves them on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


class Scripted:
    """One call of a client whose requests end as scripted; the last outcome stays."""

    def __init__(self, pacer: Pacer, clock: Clock, *outcomes: ServiceFailure | None) -> None:
        self._pacer, self._clock, self._outcomes = pacer, clock, list(outcomes)
        self.sent_at: list[float] = []

    async def __call__(self) -> str:
        async with self._pacer.admit():
            self.sent_at.append(self._clock())
            failure = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
            await asyncio.sleep(0)
            self._pacer.observe(failure)
        if failure is not None:
            raise failure
        return "answer"

    async def persist(self) -> str:
        return await self._pacer.persist(self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., Pacer]:
    def build(*, concurrency: int = 4, max_attempts: int = 5, **patience: Any) -> Pacer:
        return Pacer(
            "teacher",
            concurrency=concurrency,
            max_attempts=max_attempts,
            patience=Patience(**patience),
            clock=clock,
            sleep=clock.sleep,
        )

    return build


def failing(kind: type[ServiceFailure] = ServerFailed, **arguments: Any) -> ServiceFailure:
    return kind("scripted", **arguments)


def test_waits_grow_are_random_and_bounded(make: Any, clock: Clock) -> None:
    call = Scripted(make(max_attempts=8, first_wait_s=1, longest_wait_s=10), clock, failing())
    with pytest.raises(ServerFailed):
        asyncio.run(call.persist())
    assert len(call.sent_at) == 8 and len(clock.slept) == 7
    assert all(0 <= wait <= min(2.0**number, 10) for number, wait in enumerate(clock.slept))
    assert len(set(clock.slept)) == 7


@pytest.mark.parametrize("final", [CutAnswer, AuthFailed])
def test_what_asking_again_cannot_cure_is_asked_once(make: Any, clock: Clock, final: type[ServiceFailure]) -> None:
    call = Scripted(make(), clock, failing(final))
    with pytest.raises(final):
        asyncio.run(call.persist())
    assert len(call.sent_at) == 1 and clock.slept == []


def test_retry_after_is_one_instant_for_all_calls(make: Any, clock: Clock) -> None:
    pacer = make(concurrency=1, longest_wait_s=60)
    first = Scripted(pacer, clock, failing(RateLimited, retry_after_s=30.0), None)
    others = [Scripted(pacer, clock, None) for _ in range(5)]

    async def run() -> None:
        await asyncio.gather(first.persist(), *(other.persist() for other in others))

    asyncio.run(run())
    assert first.sent_at[0] == 1000
    assert {at for call in (first, *others) for at in call.sent_at if at != 1000} == {1030.0}


def test_a_retry_after_of_a_day_waits_no_longer_than_the_cap(make: Any, clock: Clock) -> None:
    call = Scripted(make(longest_wait_s=60), clock, failing(RateLimited, retry_after_s=86400.0), None)
    assert asyncio.run(call.persist()) == "answer"
    assert clock.now == 1060


def test_after_many_failures_one_probe_goes_at_a_time(make: Any, clock: Clock) -> None:
    pacer = make(concurrency=8, max_attempts=3, first_wait_s=0, breaker_failures=4, breaker_pause_s=5)
    calls = [Scripted(pacer, clock, failing(), None) for _ in range(4)]
    late = [Scripted(pacer, clock, None) for _ in range(4)]

    async def run() -> None:
        await asyncio.gather(*(call.persist() for call in calls))
        await asyncio.gather(*(call.persist() for call in late))

    asyncio.run(run())
    retried = sorted(at for call in calls for at in call.sent_at[1:])
    assert retried[0] == 1005 and len(retried) == 4
    assert all(len(call.sent_at) == 1 for call in late)


def test_a_service_that_stays_dead_ends_the_run_after_doubling_pauses(make: Any, clock: Clock) -> None:
    patience = {
        "first_wait_s": 0,
        "breaker_failures": 3,
        "breaker_pause_s": 5,
        "breaker_probes": 2,
        "longest_wait_s": 60,
    }
    pacer = make(max_attempts=100, concurrency=1, **patience)
    call = Scripted(pacer, clock, failing(CallTimeout))
    with pytest.raises(CircuitOpen, match="3 times in a row and then 3 probes") as caught:
        asyncio.run(call.persist())
    assert call.sent_at == [1000, 1000, 1000, 1005, 1015, 1035]
    assert caught.value.stops_run
    later = Scripted(pacer, clock, None)
    with pytest.raises(CircuitOpen):
        asyncio.run(later.persist())
    assert later.sent_at == []


def test_any_answer_in_between_keeps_the_circuit_closed(make: Any, clock: Clock) -> None:
    outcomes = [failing(), failing(), failing(RateLimited), failing(), failing(), None]
    call = Scripted(make(max_attempts=6, first_wait_s=0, breaker_failures=3), clock, *outcomes)
    assert asyncio.run(call.persist()) == "answer"
    assert clock.now == 1000


def test_a_cancelled_probe_lets_the_next_one_go(make: Any, clock: Clock) -> None:
    pacer = make(max_attempts=1, breaker_failures=1, breaker_pause_s=0)
    entered = asyncio.Event()

    async def stuck() -> None:
        async with pacer.admit():
            entered.set()
            await asyncio.Event().wait()

    async def run() -> str:
        with pytest.raises(ServerFailed):
            await Scripted(pacer, clock, failing()).persist()
        probe = asyncio.create_task(stuck())
        await entered.wait()
        waiting = asyncio.create_task(Scripted(pacer, clock, None).persist())
        await asyncio.sleep(0)
        assert not waiting.done()
        probe.cancel()
        return await waiting

    assert asyncio.run(run()) == "answer"
