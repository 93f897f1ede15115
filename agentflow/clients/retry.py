"""Retrying in one layer: bounded attempts, one shared wait, circuit breaker, concurrency. One `Pacer` per client.

In: a function that makes one attempt and raises `ServiceFailure`. Out: its result, or the last failure. What a service
asks for with Retry-After holds for all calls of the client. A failure that `stops_run` (wrong key, no quota) ends all
of them at once: nothing that waits, for a slot or before a retry, is sent any more. Belongs to one event loop; limits
that hold across processes are in `limit.py`.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity
from pydantic import Field

from agentflow import clock
from agentflow.clients.slots import Slots
from agentflow.config import Frozen
from agentflow.errors import (
    AuthFailed,
    CallTimeout,
    ConnectionFailed,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    ServiceFailure,
)
from agentflow.waiting import unhurried

Result = TypeVar("Result")
Sleep = Callable[[float], Awaitable[None]]


class CircuitOpen(ServiceFailure):
    """The service failed so often in a row, pauses included, that asking on is pointless."""

    kind = "circuit_open"
    stops_run = True


_INFRASTRUCTURE = (ConnectionFailed, CallTimeout, ServerFailed)
_STOPS: dict[str, type[ServiceFailure]] = {kind.kind: kind for kind in (AuthFailed, QuotaExhausted, CircuitOpen)}


def stopped_before(kind: str, message: str) -> ServiceFailure:
    """The failure that stopped another client of this run, as its note in the ledger tells it."""
    return _STOPS.get(kind, CircuitOpen)(message)


class Patience(Frozen):
    """How long a client keeps trying; all of it is `Where`: it never changes what an answer is."""

    first_wait_s: float = Field(default=1.0, ge=0)
    # Upper end of the random wait before the second attempt; it doubles with each further one.
    longest_wait_s: float = Field(default=60.0, ge=0)
    # Cap of every wait, also of a Retry-After (a service may ask for a day).
    unusable_answers: int = Field(default=15, ge=1)
    # Empty or malformed answers to one request, all runs and retries together, after which its row is quarantined:
    # until then it fails and is asked again.
    breaker_failures: int = Field(default=20, ge=1)
    # Broken connections, timeouts and 5xx in a row after which the client pauses and then sends one probe. So many
    # refused requests (400, 404) before any answer end the run.
    breaker_pause_s: float = Field(default=5.0, ge=0)
    # First such pause; it doubles each time a probe fails.
    breaker_probes: int = Field(default=5, ge=0)
    # Failed probes in a row after which every call fails as CircuitOpen.


class _Admission:
    """One request's stay; no generator, of which thousands would be kept while their requests are in flight."""

    __slots__ = ("_pacer", "_probe")

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._probe: asyncio.Event | None = None

    async def __aenter__(self) -> None:
        self._probe = await self._pacer.enter()

    async def __aexit__(self, *_: object) -> None:
        self._pacer.leave(self._probe)


class Pacer:
    """What the calls of one client share: slots, the instant before which nobody asks, and the breaker."""

    def __init__(
        self,
        service: str,
        *,
        concurrency: int,
        max_attempts: int,
        patience: Patience,
        on_stop: Callable[[ServiceFailure], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._service = service
        self._slots = Slots(concurrency)
        self._max_attempts = max_attempts
        self._patience = patience
        self._clock, self._sleep = clock, sleep
        self._not_before = 0.0
        self._failures = 0
        self._probes_failed = 0
        self._answered = False
        self._rejected = 0
        # Requests refused as such (400, 404) before the first usable answer.
        self._open = False
        self._probe_done: asyncio.Event | None = None
        self._stopped: ServiceFailure | None = None
        self._stopping = asyncio.Event()
        self._on_stop = on_stop

    async def persist(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """`attempt()` until it succeeds, fails for good, or was made `max_attempts` times; then its last failure."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_retry),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            sleep=self._sleep_unless_stopped,
            reraise=True,
        )
        return await retrying(attempt)

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        if self._stopping.is_set():
            return
        waits = [asyncio.ensure_future(wait) for wait in (self._sleep(seconds), self._stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, ServiceFailure) and failure.retry_after_s is not None:
            return 0.0  # the shared wait in `admit` covers it
        # Full jitter: calls that failed together do not come back together.
        longest = self._patience.first_wait_s * 2.0 ** (state.attempt_number - 1)
        return random.uniform(0.0, min(longest, self._patience.longest_wait_s))

    def admit(self) -> _Admission:
        """A slot for one request, once it may be sent. Raises the failure that stopped the client, or CircuitOpen."""
        return _Admission(self)

    async def enter(self) -> asyncio.Event | None:
        """Wait for a slot and until a request may go; the breaker's probe, if this is it."""
        with unhurried():
            await self._slots.take()
            try:
                return await self._gate()
            except BaseException:
                self.leave(None)
                raise

    def leave(self, probe: asyncio.Event | None) -> None:
        """The request that entered is over."""
        if probe is not None:
            self._probe_done = None
            probe.set()
        self._slots.give_back()

    async def _gate(self) -> asyncio.Event | None:
        """Wait until a request may go. The event to set afterwards if it is the breaker's probe."""
        while True:
            self.check()
            if (wait := self._not_before - self._clock()) > 0:
                with clock.here().during("limit_wait"):
                    await self._sleep_unless_stopped(wait)
            elif not self._open:
                return None
            elif self._probe_done is None:
                self._probe_done = asyncio.Event()
                return self._probe_done
            else:
                await self._probe_done.wait()

    def check(self) -> None:
        """Raise what stopped the client, if anything did."""
        if self._stopped is not None:
            raise copy.copy(self._stopped)

    def stop(self, failure: ServiceFailure) -> None:
        """Send nothing any more: every call ends as `failure`."""
        if self._stopped is None:
            self._stopped = failure
            self._stopping.set()
            if self._on_stop is not None:
                self._on_stop(failure)

    def observe(self, failure: ServiceFailure | None) -> None:
        """Learn from one request, while its slot is still held: None for a usable answer."""
        if failure is not None and failure.stops_run:
            self.stop(failure)
        self._answered = self._answered or failure is None
        if isinstance(failure, RequestRejected) and not self._answered:
            self._refused(failure)
        if isinstance(failure, RateLimited):
            self._slots.too_many()
        elif not isinstance(failure, _INFRASTRUCTURE):
            self._slots.went_well()
        if failure is not None and failure.retry_after_s is not None:
            wait = min(failure.retry_after_s, self._patience.longest_wait_s)
            self._not_before = max(self._not_before, self._clock() + wait)
        if not isinstance(failure, _INFRASTRUCTURE):
            self._failures = self._probes_failed = 0
            self._open = False
            return
        if self._open:
            if self._probe_done is None:
                return  # sent before the breaker opened; it says nothing new (beside a probe it counts as one)
            self._probes_failed += 1
        else:
            self._failures += 1
            if self._failures < self._patience.breaker_failures:
                return
        self._pause(failure)

    def _refused(self, failure: RequestRejected) -> None:
        """One refused request is a fault of its row; where all are refused it is one of the configuration."""
        self._rejected += 1
        if self._rejected >= self._patience.breaker_failures:
            self.stop(
                CircuitOpen(
                    f"{self._service} refused the first {self._rejected} requests and answered none; see that model "
                    f"and options are what this host takes; the last one: {failure}"
                )
            )

    def _pause(self, failure: ServiceFailure) -> None:
        if self._probes_failed > self._patience.breaker_probes:
            self.stop(
                CircuitOpen(
                    f"{self._service} failed {self._failures} times in a row and then {self._probes_failed} probes "
                    f"after pauses; the last one: {failure}"
                )
            )
            return
        self._open = True
        pause = min(self._patience.breaker_pause_s * 2.0**self._probes_failed, self._patience.longest_wait_s)
        self._not_before = max(self._not_before, self._clock() + pause)


def _may_retry(error: BaseException) -> bool:
    return isinstance(error, ServiceFailure) and error.retryable and not error.stops_run
