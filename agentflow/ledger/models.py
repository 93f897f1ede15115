"""The tables of the ledger, one SQLAlchemy model for SQLite and PostgreSQL.

`calls` holds whole answers only; `attempts` every request that was sent, usable or not, with its cost; `replays`
counts per run how often a stored answer served; `budgets` and `reservations` bound the money; `efforts` says which run
was at which artifact when. Money is whole micro-USD.
`rate_limits` and `rate_log` bound requests and tokens a minute (see `limits.py`); `stops` says which service of a run
is not worth asking.
Always: budgets.reserved = sum of its reservations, and budgets.spent = sum of the settled charges of its attempts.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import BigInteger, Boolean, Float, Integer, String, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1


class Base(DeclarativeBase):
    """Base of the ledger's tables."""


class LedgerMeta(Base):
    """Facts about the database itself; today only `schema_version`."""

    __tablename__ = "ledger_meta"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Call(Base):
    """An answer by the content of its call."""

    __tablename__ = "calls"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    provider: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    request_json: Mapped[str] = mapped_column(Text)
    sample_index: Mapped[int] = mapped_column(Integer)
    edition: Mapped[str] = mapped_column(Text)
    response_json: Mapped[str] = mapped_column(Text)
    response_sha256: Mapped[str] = mapped_column(String(64))
    fetched_at: Mapped[str] = mapped_column(String(40))


class Attempt(Base):
    """One request that was sent, or may have been."""

    __tablename__ = "attempts"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    run_id: Mapped[str] = mapped_column(Text, index=True)
    at: Mapped[str] = mapped_column(String(40))
    status: Mapped[str] = mapped_column(String(32))
    # "ok", the `kind` of a ServiceFailure, "cancelled", or "lost" (its process died).
    http_status: Mapped[int | None] = mapped_column(Integer)
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    credits: Mapped[float] = mapped_column(Float)
    usd_micro: Mapped[int] = mapped_column(BigInteger)
    assumed: Mapped[bool] = mapped_column(Boolean)
    # True if the service did not say what it billed and the worst case was counted.
    latency_ms: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str] = mapped_column(Text)


class Replay(Base):
    """How many asks of a run a stored answer served."""

    __tablename__ = "replays"

    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    replayed: Mapped[int] = mapped_column(BigInteger)


class Budget(Base):
    """A purse shared by all processes that name it."""

    __tablename__ = "budgets"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    limit_micro: Mapped[int] = mapped_column(BigInteger)
    spent_micro: Mapped[int] = mapped_column(BigInteger)
    reserved_micro: Mapped[int] = mapped_column(BigInteger)


class Reservation(Base):
    """The worst case of a call in flight. It outlives a killed process, so its money stays counted."""

    __tablename__ = "reservations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    budget_key: Mapped[str] = mapped_column(String(255), index=True)
    run_id: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    micro: Mapped[int] = mapped_column(BigInteger)
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    credits: Mapped[float] = mapped_column(Float)
    owner: Mapped[str] = mapped_column(Text)
    # host|boot|pid|start of the process; says whether it can still settle.
    at: Mapped[str] = mapped_column(String(40))


class Effort(Base):
    """A run at work on one artifact, from one reading of its meter to another."""

    __tablename__ = "efforts"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    artifact: Mapped[str] = mapped_column(String(255), index=True)
    # "<stage>/<fingerprint>".
    run_id: Mapped[str] = mapped_column(Text, index=True)
    began: Mapped[str] = mapped_column(Text)
    ended: Mapped[str | None] = mapped_column(Text)
    # What the run had used by then (`Ledger.usage` as JSON); no end: under way, or its process died.


class RateLimit(Base):
    """What all processes that use one key share: a clock that no wall clock moves, and a pause."""

    __tablename__ = "rate_limits"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Hash of provider and API key; the key itself never comes here.
    clock_us: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str] = mapped_column(Text)
    place_us: Mapped[int] = mapped_column(BigInteger)
    # Boot of the machine that advanced the clock last, and its monotonic clock then.
    not_before_us: Mapped[int] = mapped_column(BigInteger)
    # On `clock_us`: nobody asks earlier (a Retry-After).


class RateEntry(Base):
    """Requests that were let go, until they count no more. All instants are on the limit's own clock."""

    __tablename__ = "rate_log"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    limit_key: Mapped[str] = mapped_column(String(64), index=True)
    at_us: Mapped[int] = mapped_column(BigInteger)
    requests: Mapped[int] = mapped_column(Integer)
    until_us: Mapped[int] = mapped_column(BigInteger)
    # The requests count until then.
    tokens: Mapped[int] = mapped_column(BigInteger)
    tokens_until_us: Mapped[int] = mapped_column(BigInteger)
    # The worst case while the call is under way, then what the service counted.


class CallClaim(Base):
    """A call that somebody is at: other processes wait for its answer."""

    __tablename__ = "claims"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Of the call, as in `calls`.
    id: Mapped[str] = mapped_column(String(32))
    # Of the open ledger that has it.
    owner: Mapped[str] = mapped_column(Text)
    # host|boot|pid|start of its process.
    at: Mapped[float] = mapped_column(Float)
    # Seconds since the epoch.


class Stop(Base):
    """A service that told a run to stop (wrong key, no quota): its queued calls are not sent."""

    __tablename__ = "stops"

    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    # As in `rate_limits`.
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)


# The same as plain tables: bulk statements go past the object layer.
META = cast(Table, LedgerMeta.__table__)
CALLS = cast(Table, Call.__table__)
ATTEMPTS = cast(Table, Attempt.__table__)
REPLAYS = cast(Table, Replay.__table__)
BUDGETS = cast(Table, Budget.__table__)
RESERVATIONS = cast(Table, Reservation.__table__)
EFFORTS = cast(Table, Effort.__table__)
RATE_LIMITS = cast(Table, RateLimit.__table__)
RATE_LOG = cast(Table, RateEntry.__table__)
CLAIMS = cast(Table, CallClaim.__table__)
STOPS = cast(Table, Stop.__table__)
