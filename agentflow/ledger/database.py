"""Opening the ledger's database: SQLite in WAL mode with full syncs, or PostgreSQL by URL.

In: a URL or a file path. Out: an SQLAlchemy engine whose tables exist, and `StoreError` for whatever goes wrong.
Does not know what the rows mean. Secrets: statement parameters and the URL's password never reach a message.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tenacity
from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, insert, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from agentflow.errors import StoreError
from agentflow.ledger.models import META, SCHEMA_VERSION, Base

BUSY_TIMEOUT_S = 60
# Any constant of our own: the PostgreSQL advisory lock under which the tables are made.
_CREATE_LOCK = 0x61676C67
# What a database says when it rolled a transaction back as a whole and it may simply be done again.
_AGAIN = ("database is locked", "database table is locked", "deadlock detected", "could not serialize access")

_KEYS_PER_SELECT = 500
# Below every database's limit of bound parameters in one statement.

Result = TypeVar("Result")


def parse_url(url: str) -> URL:
    """`url` as SQLAlchemy URL; a plain path means SQLite, `postgresql://` means psycopg. Raises StoreError."""
    allowed = "use a file path, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    except ArgumentError:
        raise StoreError(f"the ledger URL cannot be read; {allowed}") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or parsed.database in (None, "", ":memory:"):
        # In memory nothing is durable, so it is refused like an unknown database.
        raise StoreError(f"ledger {parsed.render_as_string()!r} is not durable storage we know; {allowed}")
    return parsed.set(drivername="sqlite")


def open_engine(url: str) -> Engine:
    """Engine for `url` with all tables in place; safe when many processes open a new file at once.

    Raises StoreError if the place is not writable, the file is no ledger or is damaged, or the server refuses.
    """
    parsed = parse_url(url)
    name = parsed.render_as_string()
    is_file = parsed.get_backend_name() == "sqlite"
    try:
        if is_file:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False} if is_file else {"connect_timeout": 30}
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=not is_file, connect_args=arguments)
    except OSError as error:
        raise StoreError(f"ledger {name!r}: no such folder ({error.strerror}); choose a writable place") from error
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(f"ledger {name!r} needs a driver: pip install 'agentflow[postgresql]'") from error
    if is_file:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
    try:
        with told(engine):
            run_again(lambda: _create_tables(engine))
    except StoreError:
        engine.dispose()
        raise
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """WAL lets readers go on while one writes; FULL makes a commit survive a power cut."""
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    _set_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")


def _set_wal(connection: Any) -> None:
    """Switch a new file to WAL. That needs the file alone, and SQLite does not always wait for it by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later can be refused at once; taking the write lock first waits.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads_only") else "BEGIN IMMEDIATE")


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reading: one snapshot, no write lock. Raises StoreError."""
    with told(engine), engine.connect().execution_options(reads_only=True) as connection:
        yield connection


def _create_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATE_LOCK})
        Base.metadata.create_all(connection)
        version = connection.scalar(select(META.c.value).where(META.c.name == "schema_version"))
        if version is None:
            connection.execute(insert(META), {"name": "schema_version", "value": str(SCHEMA_VERSION)})
        elif version != str(SCHEMA_VERSION):
            raise StoreError(
                f"the ledger has schema version {version}, this program reads {SCHEMA_VERSION}; "
                "use the program that wrote it or another ledger"
            )


def in_chunks(keys: Iterable[str]) -> Iterable[list[str]]:
    """Distinct `keys`, sorted, in pieces that fit one statement."""
    distinct = sorted(set(keys))
    for start in range(0, len(distinct), _KEYS_PER_SELECT):
        yield distinct[start : start + _KEYS_PER_SELECT]


def upsert(engine: Engine, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT for `table` that knows ON CONFLICT, in the dialect of `engine`."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def insert_new(engine: Engine, table: Table) -> Insert:
    """An INSERT that leaves rows alone whose key is there already."""
    return upsert(engine, table).on_conflict_do_nothing()


@contextlib.contextmanager
def told(engine: Engine) -> Iterator[None]:
    """Database errors inside become a StoreError that says which ledger, what happened and what to do."""
    try:
        yield
    except UnicodeDecodeError:
        cause = "malformed text"  # the driver could not even read the table definitions
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    else:
        return
    if any(word in cause for word in ("malformed", "not a database", "no such table", "no such column")):
        advice = "the file is damaged or no ledger; restore a copy or move it away (its answers are then paid again)"
    elif "readonly" in cause or "unable to open" in cause or "permission" in cause.lower():
        advice = "choose a place that can be written"
    elif "full" in cause or "disk I/O" in cause or "space" in cause:
        advice = "make room on the disk and start again; what was committed is kept"
    elif "locked" in cause:
        advice = f"another program held it for more than {BUSY_TIMEOUT_S} s; stop that program"
    else:
        advice = "see that the database runs and that the URL is right"
    raise StoreError(f"ledger {engine.url.render_as_string()!r}: {cause}; {advice}")


def _may_run_again(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and (
        error.connection_invalidated or any(word in str(error.orig) for word in _AGAIN)
    )


def run_again(transaction: Callable[[], Result]) -> Result:
    """`transaction()`, repeated if the database undid it (deadlock, lock, lost connection); it must be idempotent."""
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_run_again),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )
    return again(transaction)
