"""The ledger: every paid call is asked through it, and its answer stands on disk before anybody sees it.

In: a `PaidCall` and the function that sends it once. Out: a `Recorded` answer, from the store where there is one.
Promise P3: after kill -9 at most the calls in flight are paid again. The budget counts every call's worst case before
it is sent, in whole micro-USD, atomically over all processes; what is unknown afterwards is charged at its worst.
Does not retry: the clients loop around `ask`, so that each request is an attempt of its own. Rates and stops
are only kept here (`limit`, `stops`); `clients.limit` and `clients.retry` act on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Engine, select

from agentflow.errors import ConfigError, ReplayMissing, StoreError
from agentflow.ledger import meters
from agentflow.ledger.batcher import Batcher
from agentflow.ledger.books import Books, CountReplay, Entry, Release, Row
from agentflow.ledger.calls import MODES, Cost, Mode, PaidCall, Recorded
from agentflow.ledger.claims import Claims
from agentflow.ledger.database import open_engine, told, upsert
from agentflow.ledger.efforts import Efforts
from agentflow.ledger.limits import Granted, LimitEntry
from agentflow.ledger.models import BUDGETS
from agentflow.ledger.owners import settle_lost
from agentflow.ledger.places import me
from agentflow.ledger.rows import verified
from agentflow.ledger.sending import Permit, Send, Sender
from agentflow.ledger.stops import Stops
from agentflow.waiting import unhurried

Admit = Callable[[], contextlib.AbstractAsyncContextManager[Any]]
MOST_USD = 1_000_000_000
# The largest budget; its micro-USD fit a database's integer with room to spare.
_log = logging.getLogger(__name__)


class _LeaderGone(Exception):
    """The ask that others waited for was cancelled; one of them takes over."""


class Ledger:
    """One run's handle on the shared store; may be used from several threads and event loops at once.

    Make it with `Ledger.open` in each process (it holds threads and database connections, so it is not pickled).
    """

    def __init__(self, engine: Engine, *, run_id: str, mode: Mode, budget_key: str | None) -> None:
        self.run_id, self.mode, self.budget_key = run_id, mode, budget_key
        self._engine = engine
        self._books = Books(engine, run_id=run_id, budget_key=budget_key)
        self._writer: Batcher[Entry] = Batcher("ledger-writer", self._books.write)
        self._reader: Batcher[str] = Batcher("ledger-reader", self._books.read)
        self._prefetched: dict[str, Row] = {}
        self._in_flight: dict[str, list[Future[Recorded]]] = {}
        # By the keys of this ledger's own calls: a future for each ask that waits for one of them, mostly none.
        self._lock = threading.Lock()
        self._owner = me()
        self._claims = Claims(self._writer.submit, partial(self._later, matters=False), self._owner)
        self._sender = Sender(
            self._writer, self._later, self._claims, run_id=run_id, budget_key=budget_key, owner=self._owner
        )
        self.stops = Stops(engine, run_id, self._later, self._flush)
        self.efforts = Efforts(engine, run_id, self.usage)
        self._late_error: BaseException | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        run_id: str,
        mode: Mode = "record",
        budget_usd: float | None = None,
        budget_key: str | None = None,
    ) -> Ledger:
        """Open or make the ledger at `url` (a file path, `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`).

        `budget_usd` sets the limit of the purse `budget_key` (default: the run id); what was spent from it before
        still counts, so a resumed run gives a larger one. With only `budget_key` an existing purse is used as it is.
        With neither, nothing is limited. Raises StoreError, also for a damaged file; ValueError for an unknown mode,
        ConfigError for a budget that is no amount of money.
        """
        if mode not in MODES:
            raise ValueError(f"ledger mode {mode!r} is unknown; use one of {', '.join(MODES)}")
        if budget_usd is not None and not 0 <= budget_usd <= MOST_USD:
            raise ConfigError(f"a budget of {budget_usd} USD cannot be held; give a number from 0 to {MOST_USD:,}")
        engine = open_engine(url)
        purse = budget_key or (run_id if budget_usd is not None else None)
        ledger = cls(engine, run_id=run_id, mode=mode, budget_key=purse)
        try:
            if purse is not None:
                ledger._open_purse(purse, budget_usd)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _open_purse(self, purse: str, budget_usd: float | None) -> None:
        with told(self._engine):
            if budget_usd is None:
                with self._engine.connect() as connection:
                    if connection.scalar(select(BUDGETS.c.key).where(BUDGETS.c.key == purse)) is None:
                        raise StoreError(f"budget {purse!r} is not in the ledger; give budget_usd to make it")
            else:
                limit = int(budget_usd * 1_000_000 + 1e-6)
                row = {"key": purse, "limit_micro": limit, "spent_micro": 0, "reserved_micro": 0}
                statement = upsert(self._engine, BUDGETS).values(row)
                with self._engine.begin() as connection:
                    connection.execute(
                        statement.on_conflict_do_update(index_elements=["key"], set_={"limit_micro": limit})
                    )
            settle_lost(self._engine, self._books, purse)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued and let go of the database. Raises StoreError if some of it could not be written."""
        # What still waits for its turn must not be sent: its answer could not be kept.
        self._sender.stop(StoreError("the ledger is closed; open it again before asking"))
        self._claims.close()
        self._writer.close()
        self._reader.close()
        self._engine.dispose()
        if self._late_error is not None:
            error, self._late_error = self._late_error, None
            raise StoreError(f"the ledger could not write its last entries: {error}") from error

    # ------------------------------------------------------------ asking
    async def ask(
        self,
        call: PaidCall,
        send: Send,
        worst_case: Cost,
        *,
        admit: Admit | None = None,
        permit: Permit | None = None,
        check: Callable[[], None] | None = None,
    ) -> Recorded:
        """The stored answer to `call`, or the one that `send` gets now, durably stored before this returns.

        `send` is called at most once. `admit` is entered around reserving and sending (a semaphore, a wait), never
        for stored answers; `permit` is awaited right before `send`: until it returns nothing has been sent, and if it
        fails nothing is charged. `check` is called while another process is waited for, and ends the wait by what it
        raises. Once an answer could not be stored nothing further is sent. Concurrent asks of one key
        share one call, those of other processes too. Raises ReplayMissing (its `stops_run` is True in mode
        `replay_or_fail`), BudgetExceeded, StoreError, and the ServiceFailure of `permit` and `send`.
        """
        while True:
            shared: Future[Recorded] | None = None
            with self._lock:
                if (waiting := self._in_flight.get(call.key)) is None:
                    self._in_flight[call.key] = []
                else:
                    shared = Future()
                    shared.set_running_or_notify_cancel()  # a waiter that is cancelled is told like the others
                    waiting.append(shared)
            if shared is None:
                return await self._ask_for_all(call, send, worst_case, admit, permit, check)
            try:
                with unhurried():  # that call has a deadline of its own
                    recorded = await asyncio.wrap_future(shared)
            except _LeaderGone:
                continue
            self._later(CountReplay(call.kind))
            return replace(recorded, paid=False)

    async def _ask_for_all(self, call: PaidCall, *how: Any) -> Recorded:
        result: Recorded | BaseException = _LeaderGone()
        try:
            result = await self._look_up_or_pay(call, *how)
            return result
        except Exception as error:
            result = error
            raise
        finally:
            with self._lock:
                waiting = self._in_flight.pop(call.key)
            for shared in waiting:
                if isinstance(result, BaseException):
                    shared.set_exception(result)
                else:
                    shared.set_result(result)

    async def _look_up_or_pay(
        self,
        call: PaidCall,
        send: Send,
        worst_case: Cost,
        admit: Admit | None,
        permit: Permit | None,
        check: Callable[[], None] | None,
    ) -> Recorded:
        row = self._prefetched.pop(call.key, None) or await asyncio.wrap_future(self._reader.submit(call.key))
        if (recorded := self._stored(call, row)) is not None:
            return recorded
        if self.mode != "record":
            state = "is not stored" if row is None else "is stored but damaged (its hash does not fit)"
            missing = ReplayMissing(
                f"{call.kind} call {call.key[:12]} {state} and mode {self.mode!r} asks nothing new; use mode 'record'"
            )
            missing.stops_run = self.mode == "replay_or_fail"
            raise missing
        # Claimed before the wait for a slot, so that no slot is empty while the claim is written.
        answered = await self._claims.take(call.key, check)
        try:
            if answered:
                row = await asyncio.wrap_future(self._reader.submit(call.key))
                if (recorded := self._stored(call, row)) is not None:
                    return recorded
            async with admit() if admit else contextlib.nullcontext():
                sent = await self._sender.send(call, send, worst_case, permit)
            return await self._sender.keep(call, sent, worst_case, replace_it=row is not None)
        finally:
            self._claims.release(call.key)

    def _stored(self, call: PaidCall, row: Row | None) -> Recorded | None:
        """The answer in a row of `calls`, counted as a replay; None if there is none, or it is damaged or too old."""
        response = verified(row)
        if row is None or response is None or (self.mode == "record" and _is_old(row, call.max_age_s)):
            return None
        self._later(CountReplay(call.kind))
        return Recorded(response, call.key, False, row["fetched_at"])

    def _later(self, entry: Entry, *, matters: bool = True) -> None:
        """Queue an entry that nobody waits for; if one that matters cannot be written, `close` says so."""
        try:
            self._writer.submit(entry).add_done_callback(partial(self._note_late_error, matters))
        except StoreError as error:
            # Closed under a call in flight: its reservation stays, and counts, until the next opening settles it.
            _log.error("ledger entry not written: %s", error)

    def _note_late_error(self, matters: bool, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            _log.error("ledger entry not written: %s", error)
            self._late_error = error if matters else self._late_error

    # ------------------------------------------------------------ limits
    async def limit(self, entry: LimitEntry) -> Granted | None:
        """Do one entry of `limits` durably; the result of a `Grant` is a `Granted`. Raises StoreError."""
        granted: Granted | None = await asyncio.wrap_future(self._writer.submit(entry))
        return granted

    def limit_later(self, entry: LimitEntry) -> None:
        """The same for an entry nobody waits for."""
        self._later(entry)

    # ------------------------------------------------------------ reading
    async def prefetch(self, keys: Iterable[str]) -> int:
        """Load the stored answers among `keys` in few queries; the next ask of each needs none. Returns how many."""
        wanted = list(dict.fromkeys(keys))
        rows = await asyncio.gather(*(asyncio.wrap_future(self._reader.submit(key)) for key in wanted))
        found = {key: row for key, row in zip(wanted, rows, strict=True) if row is not None}
        self._prefetched.update(found)
        return len(found)

    def usage(self, run_id: str | None = None) -> dict[str, Any]:
        """Counts and costs of `run_id` over all processes, or of all runs with None.

        `{"teacher": {"paid", "replayed", "failed", "lost"}, "search": {...}, "tokens_in", "tokens_out", "credits",
        "usd", "usd_assumed"}`: paid = answers got, failed = attempts without one, lost = calls in flight when their
        process died; `usd_assumed` is the part of `usd` counted at its worst case because nobody said what it was.
        """
        self._flush()
        with told(self._engine):
            return meters.usage(self._engine, run_id)

    def meter(self) -> str:
        """What this run has used so far, in one line."""
        purse = None if self.budget_key is None else self.stats()["budgets"].get(self.budget_key)
        return meters.meter_line(self.usage(self.run_id), purse)

    def mean_tokens(self, provider: str, model: str) -> meters.MeanTokens:
        """What the stored answers of a teacher took on average: for estimates."""
        self._flush()
        with told(self._engine):
            return meters.mean_tokens(self._engine, provider, model)

    def stored(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose answer is stored, whether damaged or too old or not: for estimates."""
        self._flush()
        with told(self._engine):
            return meters.stored_keys(self._engine, keys)

    def count_attempts(self, key: str, statuses: Sequence[str]) -> int:
        """How many attempts under `key` ended in one of `statuses`, all runs together."""
        self._flush()
        with told(self._engine):
            return meters.count_attempts(self._engine, key, statuses)

    def get(self, key: str) -> dict[str, Any] | None:
        """Request, response, hash, fetched_at and all attempts under `key`; None if it was never asked.

        `response` is None and `corrupt` True where the stored answer does not fit its hash.
        """
        self._flush()
        found = meters.entry(self._engine, key)
        if found is not None and found.get("response_json") is not None:
            found["response"] = verified(found)
            found["corrupt"] = found["response"] is None
            del found["response_json"]
        return found

    def stats(self) -> dict[str, Any]:
        """`{"answers": {kind: n}, "attempts": {status: n}, "budgets": {key: {limit_usd, spent_usd, reserved_usd}}}`."""
        self._flush()
        return meters.stats(self._engine)

    def _flush(self) -> None:
        self._writer.submit(Release("")).result()  # releases nothing, but stands behind all that was queued


def _is_old(row: Row, max_age_s: float | None) -> bool:
    """Whether a stored answer has outlived its time. One from the future (a clock was set back) has not."""
    if max_age_s is None:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(row["fetched_at"]) > timedelta(seconds=max_age_s)
