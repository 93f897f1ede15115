"""One paid call: its worst case reserved, sent once, and what came of it kept with its cost.

In: a `PaidCall` that is this process's to make, and the function that sends it. Out: a `Recorded` answer that stands on
disk. Whatever happens in between is an attempt in the books; what nobody knows the cost of is charged at its worst.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from agentflow.errors import ServiceFailure, StoreError
from agentflow.ledger.batcher import Batcher
from agentflow.ledger.books import Entry, Finish, Release, Reserve, Row
from agentflow.ledger.calls import Answer, Cost, PaidCall, Recorded, Refusal
from agentflow.ledger.claims import Claims
from agentflow.ledger.rows import answer_row, close_attempt, now, verified
from agentflow.waiting import to_its_end

Send = Callable[[], Awaitable[Answer | Refusal]]
Permit = Callable[[], Awaitable[None]]


class Later(Protocol):
    """Queue an entry that nobody waits for."""

    def __call__(self, entry: Entry) -> None: ...


@dataclass(frozen=True)
class Sent:
    """A call that was sent, before what came of it is kept."""

    attempt: Row
    started: float
    reservation: str | None
    outcome: Answer | Refusal
    answer: Row | None
    # A row of `calls`; None for a Refusal.


class Sender:
    """Sends the calls of one run. `owner` is who a reservation belongs to until it is settled."""

    def __init__(
        self, writer: Batcher[Entry], later: Later, claims: Claims, *, run_id: str, budget_key: str | None, owner: str
    ) -> None:
        self._writer, self._later, self._claims = writer, later, claims
        self._run_id, self._budget_key, self._owner = run_id, budget_key, owner
        self._unwritable: StoreError | None = None
        # Why an answer that was paid for was not or would not be kept: then no other is asked for.

    def stop(self, why: StoreError) -> None:
        """Send nothing any more: an answer could not be kept."""
        self._unwritable = self._unwritable or why

    async def send(self, call: PaidCall, send: Send, worst_case: Cost, permit: Permit | None) -> Sent:
        """Reserve the worst case and send `call` once. Raises StoreError, BudgetExceeded, and what `permit` raises."""
        if self._unwritable is not None:
            raise StoreError(str(self._unwritable))
        reservation = await self._reserve(call, worst_case)
        if permit is not None:
            try:
                await permit()
            except BaseException:
                if reservation is not None:
                    self._later(Release(reservation))
                raise
        attempt = self._attempt(call)
        started = time.monotonic()
        try:
            outcome = await send()
        except ServiceFailure as error:
            outcome = Refusal(error)
        except BaseException as error:
            # Cancelled, or a defect: the service may have done its work, so the worst case is charged.
            status = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
            close_attempt(attempt, status, worst_case, started, assumed=True, error=type(error).__name__)
            self._later(Finish(attempt, reservation=reservation))
            raise
        answer = None
        if isinstance(outcome, Answer):
            answer, outcome = answer_row(call, outcome, attempt["at"])
        return Sent(attempt, started, reservation, outcome, answer)

    async def keep(self, call: PaidCall, sent: Sent, worst_case: Cost, *, replace_it: bool) -> Recorded:
        """Store what came of it, with its cost, before anybody sees it. Raises the failure of a Refusal."""
        attempt, outcome = sent.attempt, sent.outcome
        cost, assumed = (worst_case, True) if outcome.cost is None else (outcome.cost, False)
        if isinstance(outcome, Refusal):
            error = outcome.error
            close_attempt(attempt, error.kind, cost, sent.started, assumed=assumed, error=str(error))
            attempt["http_status"] = error.status
            await self._finish(Finish(attempt, reservation=sent.reservation, claim=self._claims.id))
            raise error
        assert sent.answer is not None
        close_attempt(attempt, "ok", cost, sent.started, assumed=assumed, error="")
        attempt["http_status"] = outcome.http_status
        finish = Finish(attempt, sent.answer, sent.reservation, replace=replace_it, claim=self._claims.id)
        earlier = verified(other := await self._finish(finish))
        if other is not None and earlier is not None:
            return Recorded(earlier, call.key, True, other["fetched_at"])
        return Recorded(outcome.response, call.key, True, sent.answer["fetched_at"])

    async def _finish(self, finish: Finish) -> Row | None:
        """Keep what came, to the end also if cancelled: whoever asks this next must find it and not pay again."""
        work = self._writer.submit(finish)
        try:
            stored: Row | None = await to_its_end(work)
        finally:
            if isinstance(error := work.exception(), StoreError):
                self._unwritable = error  # also where nobody waits for it any more
        self._claims.forget(finish.attempt["key"])
        return stored

    async def _reserve(self, call: PaidCall, worst_case: Cost) -> str | None:
        if self._budget_key is None:
            return None
        row: Row = {
            "id": uuid.uuid4().hex,
            "budget_key": self._budget_key,
            "run_id": self._run_id,
            "key": call.key,
            "kind": call.kind,
            "micro": worst_case.micro_usd,
            "tokens_in": worst_case.tokens_in,
            "tokens_out": worst_case.tokens_out,
            "credits": worst_case.credits,
            "owner": self._owner,
            "at": now(),
        }
        try:
            await asyncio.wrap_future(self._writer.submit(Reserve(row)))
        except asyncio.CancelledError:
            self._later(Release(row["id"]))  # behind the reservation in the queue; nothing was sent
            raise
        return str(row["id"])

    def _attempt(self, call: PaidCall) -> Row:
        return {"id": uuid.uuid4().hex, "key": call.key, "kind": call.kind, "run_id": self._run_id, "at": now()}
