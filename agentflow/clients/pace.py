"""What every request of a client passes on its way to the service: slot, retries, shared waits, limits, stops.

In: a paid call and the function that sends it once. Out: its recorded answer. Puts `retry.Pacer` (this process) and
`limit.Limiter` (all processes of the key) around `Ledger.ask`; teacher and search use the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Protocol, TypeVar

from agentflow import clock
from agentflow.clients.limit import Limiter
from agentflow.clients.retry import Pacer, Patience, stopped_before
from agentflow.errors import EmptyAnswer, MalformedAnswer, ServiceFailure
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Recorded, Refusal
from agentflow.waiting import unhurried

Result = TypeVar("Result")


class Paced(Protocol):
    """The fields of a client's configuration that say how fast it may ask."""

    @property
    def concurrency(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def patience(self) -> Patience: ...


class Pace:
    """The pace of one client within one event loop."""

    def __init__(self, service: str, config: Paced, ledger: Ledger, key: str) -> None:
        self._ledger, self._key = ledger, key
        self._longest_wait_s = config.patience.longest_wait_s
        self._unusable_answers = config.patience.unusable_answers
        self._pacer = Pacer(
            service,
            concurrency=config.concurrency,
            max_attempts=config.max_attempts,
            patience=config.patience,
            on_stop=self._stopped,
        )
        self._limiter = Limiter(
            ledger,
            key,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=getattr(config, "tokens_per_minute", None),
            hold_s=config.timeout_s,
        )
        if ledger.mode == "record" and (stop := ledger.stops.of(key)) is not None:
            self._pacer.stop(stopped_before(*stop))

    async def persist(self, key: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """`Pacer.persist` for the call `key`, which a failure names.

        An empty or malformed answer is its row's own fault once there were too many of them.
        """
        try:
            return await self._pacer.persist(attempt)
        except ServiceFailure as failure:
            failure.ledger_key = key
            if not isinstance(failure, EmptyAnswer | MalformedAnswer):
                raise
            seen = await asyncio.to_thread(self._ledger.count_attempts, key, (EmptyAnswer.kind, MalformedAnswer.kind))
            failure.row_fault = seen >= self._unusable_answers
            raise

    async def ask(self, call: PaidCall, send: Callable[[], Awaitable[Answer | Refusal]], worst: Cost) -> Recorded:
        """One attempt through the ledger, sent when this process and the key's limits allow it.

        Raises what `Ledger.ask` raises, and the failure that stopped the client.
        """
        permits: list[str | None] = []

        async def permit() -> None:
            self._pacer.check()
            with unhurried(), clock.here().during("limit_wait") if self._limiter.limited else nullcontext():
                permits.append(await self._limiter.acquire(worst.tokens_in + worst.tokens_out))
            self._pacer.check()

        async def paced() -> Answer | Refusal:
            outcome: Answer | Refusal | None = None
            try:
                outcome = await send()
            finally:
                cost = None if outcome is None else outcome.cost
                tokens = None if cost is None else cost.tokens_in + cost.tokens_out
                self._limiter.settle(permits[0], tokens)
            self._learn(outcome.error if isinstance(outcome, Refusal) else None)
            return outcome

        pacer = self._pacer
        return await self._ledger.ask(call, paced, worst, admit=pacer.admit, permit=permit, check=pacer.check)

    def _learn(self, failure: ServiceFailure | None) -> None:
        self._pacer.observe(failure)
        if failure is not None and failure.retry_after_s is not None:
            self._limiter.pause(min(failure.retry_after_s, self._longest_wait_s))

    def _stopped(self, failure: ServiceFailure) -> None:
        self._limiter.give_up(failure)
        self._ledger.stops.note(self._key, failure.kind, str(failure))
