"""The transactions of the ledger: a group of entries in, one durable commit, one result per entry out.

`Books.write` is the work of the writer thread (group commit), `Books.read` that of the reader thread. Writes of money
and answers are idempotent: entries carry their own ids, so a group whose commit got lost half-way can be written again.
Does not decide what is asked or paid; see `ledger.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from agentflow.errors import BudgetExceeded
from agentflow.ledger import claims, stops
from agentflow.ledger.claims import Claim, ClaimEntry, Unclaim
from agentflow.ledger.database import in_chunks, insert_new, reading, run_again, told, upsert
from agentflow.ledger.limits import Extend, Grant, LimitEntry, Limits, Pause, Settle
from agentflow.ledger.models import ATTEMPTS, BUDGETS, CALLS, REPLAYS, RESERVATIONS
from agentflow.ledger.stops import NoteStop

Row = dict[str, Any]
_LIMIT_ENTRIES = (Grant, Settle, Extend, Pause)


@dataclass(frozen=True)
class Reserve:
    """Set the worst case of a call aside. Result: None, or BudgetExceeded."""

    row: Row
    # A row of `reservations`.


@dataclass(frozen=True)
class Finish:
    """An attempt ended. Result: the stored answer row if this one was not the first of its key, else None."""

    attempt: Row
    # A row of `attempts`; its `usd_micro` is what is charged.
    answer: Row | None = None
    # A row of `calls`.
    reservation: str | None = None
    # Id of the reservation that this settles.
    replace: bool = False
    # The stored answer is corrupt or too old: overwrite it.
    claim: str | None = None
    # Id of the claim on the call, which ends with it.


@dataclass(frozen=True)
class Release:
    """A reservation whose call was never sent. Result: None."""

    reservation: str


@dataclass(frozen=True)
class CountReplay:
    """A stored answer served. Result: None."""

    kind: str


Entry = Reserve | Finish | Release | CountReplay | NoteStop | ClaimEntry | LimitEntry


class Books:
    """Reads and writes of one run in one ledger database."""

    def __init__(self, engine: Engine, *, run_id: str, budget_key: str | None) -> None:
        self._engine = engine
        self._run_id = run_id
        self._budget_key = budget_key
        self._limits = Limits(engine)

    # ------------------------------------------------------------ reading
    def read(self, keys: Sequence[str]) -> list[Row | None]:
        """The row of `calls` for each key, None where there is none."""
        with reading(self._engine) as connection:
            found = _calls_of(connection, keys)
        return [found.get(key) for key in keys]

    # ------------------------------------------------------------ writing
    def write(self, entries: Sequence[Entry]) -> list[Any]:
        """All entries in one transaction. Raises StoreError if it could not be committed: then none of them is."""
        with told(self._engine):
            return run_again(lambda: self._write_once(entries))

    def _write_once(self, entries: Sequence[Entry]) -> list[Any]:
        results: list[Any] = [None] * len(entries)
        finished = [(at, entry) for at, entry in enumerate(entries) if isinstance(entry, Finish)]
        released = [entry.reservation for entry in entries if isinstance(entry, Release)]
        reserved = [(at, entry.row) for at, entry in enumerate(entries) if isinstance(entry, Reserve)]
        replayed = Counter(entry.kind for entry in entries if isinstance(entry, CountReplay))
        with self._engine.begin() as connection:
            if finished:
                # Sorted everywhere, so that two processes on PostgreSQL lock rows in the same order.
                attempts = sorted((entry.attempt for _, entry in finished), key=_id)
                connection.execute(insert_new(self._engine, ATTEMPTS), attempts)
                self._store_answers(connection, finished, results)
            charges = {entry.reservation: entry.attempt["usd_micro"] for _, entry in finished if entry.reservation}
            self.settle(connection, {**dict.fromkeys(released, 0), **charges})
            self._reserve(connection, reserved, results)
            for kind, count in sorted(replayed.items()):
                self._add_replays(connection, kind, count)
            stops.apply(self._engine, connection, [entry for entry in entries if isinstance(entry, NoteStop)])
            claimed = [(at, given) for at, entry in enumerate(entries) if (given := _claim_entry(entry)) is not None]
            standings = claims.apply(self._engine, connection, [entry for _, entry in claimed])
            for (at, entry), standing in zip(claimed, standings, strict=True):
                if isinstance(entry, Claim):
                    results[at] = standing
            # Last, so that a limit all processes wait for is held as shortly as can be.
            limited = [(at, entry) for at, entry in enumerate(entries) if isinstance(entry, _LIMIT_ENTRIES)]
            granted = self._limits.apply(connection, [entry for _, entry in limited])
            for (at, _), result in zip(limited, granted, strict=True):
                results[at] = result
        return results

    def _store_answers(self, connection: Connection, finished: list[tuple[int, Finish]], results: list[Any]) -> None:
        answered = [(at, entry.answer, entry.replace) for at, entry in finished if entry.answer is not None]
        new = sorted((row for _, row, replace in answered if not replace), key=_key)
        if new:
            connection.execute(insert_new(self._engine, CALLS), new)
        for row in sorted((row for _, row, replace in answered if replace), key=_key):
            statement = upsert(self._engine, CALLS).values(row)
            changed = {name: statement.excluded[name] for name in ("response_json", "response_sha256", "fetched_at")}
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=changed))
        stored = _hashes_of(connection, [row["key"] for _, row, _ in answered])
        # Another process may have been first: then its answer is everybody's (promise P4).
        others = [(at, row["key"]) for at, row, _ in answered if stored[row["key"]] != row["response_sha256"]]
        winners = _calls_of(connection, [key for _, key in others])
        for at, key in others:
            results[at] = winners[key]

    def settle(self, connection: Connection, charges: dict[str, int]) -> None:
        """Turn reservations (id to charge in micro-USD) into spent money; those already settled are left alone."""
        for ids in in_chunks(charges):
            gone = connection.execute(
                delete(RESERVATIONS)
                .where(RESERVATIONS.c.id.in_(ids))
                .returning(RESERVATIONS.c.id, RESERVATIONS.c.budget_key, RESERVATIONS.c.micro)
            ).all()
            for purse in sorted({row.budget_key for row in gone}):
                mine = [row for row in gone if row.budget_key == purse]
                connection.execute(
                    update(BUDGETS)
                    .where(BUDGETS.c.key == purse)
                    .values(
                        reserved_micro=BUDGETS.c.reserved_micro - sum(row.micro for row in mine),
                        spent_micro=BUDGETS.c.spent_micro + sum(charges[row.id] for row in mine),
                    )
                )

    def _reserve(self, connection: Connection, reserved: list[tuple[int, Row]], results: list[Any]) -> None:
        if not reserved:
            return
        here = _reservations_of(connection, [row["id"] for _, row in reserved])  # only after a lost commit
        wanted = [(at, row) for at, row in reserved if row["id"] not in here]
        # All at once if they fit together, else one after another until the purse is empty.
        if wanted and self._set_aside(connection, sum(row["micro"] for _, row in wanted)):
            granted = wanted
        else:
            granted = [(at, row) for at, row in wanted if self._set_aside(connection, row["micro"])]
        if granted:
            connection.execute(insert(RESERVATIONS), [row for _, row in granted])
        if len(granted) < len(wanted):
            left, got = self._what_is_left(connection), {at for at, _ in granted}
            for at, row in wanted:
                if at not in got:
                    results[at] = BudgetExceeded(f"{left}; the next call may cost {_usd(row['micro'])}")

    def _set_aside(self, connection: Connection, micro: int) -> bool:
        """One statement that both looks and takes, so that no two processes can take the same money."""
        taken = connection.execute(
            update(BUDGETS)
            .where(
                BUDGETS.c.key == self._budget_key,
                BUDGETS.c.spent_micro + BUDGETS.c.reserved_micro + micro <= BUDGETS.c.limit_micro,
            )
            .values(reserved_micro=BUDGETS.c.reserved_micro + micro)
        )
        return taken.rowcount == 1

    def _what_is_left(self, connection: Connection) -> str:
        purse = connection.execute(select(BUDGETS).where(BUDGETS.c.key == self._budget_key)).one()
        return (
            f"budget {self._budget_key!r} of {_usd(purse.limit_micro)} is used up: {_usd(purse.spent_micro)} spent, "
            f"{_usd(purse.reserved_micro)} reserved by calls in flight; raise it and run again, nothing paid is lost"
        )

    def _add_replays(self, connection: Connection, kind: str, count: int) -> None:
        statement = upsert(self._engine, REPLAYS).values(run_id=self._run_id, kind=kind, replayed=count)
        total = REPLAYS.c.replayed + statement.excluded.replayed
        connection.execute(statement.on_conflict_do_update(index_elements=["run_id", "kind"], set_={"replayed": total}))


def _claim_entry(entry: Entry) -> ClaimEntry | None:
    if isinstance(entry, Finish):
        return None if entry.claim is None else Unclaim(entry.attempt["key"], entry.claim)
    return entry if isinstance(entry, ClaimEntry) else None


def _usd(micro: int) -> str:
    return f"{micro / 1_000_000:.6f} USD"


def _id(row: Row) -> str:
    return str(row["id"])


def _key(row: Row) -> str:
    return str(row["key"])


def _calls_of(connection: Connection, keys: Iterable[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for chunk in in_chunks(keys):
        for row in connection.execute(select(CALLS).where(CALLS.c.key.in_(chunk))).mappings():
            found[row["key"]] = dict(row)
    return found


def _hashes_of(connection: Connection, keys: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for chunk in in_chunks(keys):
        rows = connection.execute(select(CALLS.c.key, CALLS.c.response_sha256).where(CALLS.c.key.in_(chunk)))
        found.update((row.key, row.response_sha256) for row in rows)
    return found


def _reservations_of(connection: Connection, ids: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for chunk in in_chunks(ids):
        found.update(connection.scalars(select(RESERVATIONS.c.id).where(RESERVATIONS.c.id.in_(chunk))))
    return found
