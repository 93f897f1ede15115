"""Whose reservation is this, and can its process still settle it?

A process that was killed leaves its reservations behind. Nobody knows whether the service did the work, so their
money is never given back: on the next opening of the budget on the same host they become spent money at their worst
case, each with an attempt of status "lost". Reservations of processes on other hosts stay reserved, which counts the
same against the limit. A wrong guess is harmless: what is settled once cannot be settled again.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine, select

from agentflow.ledger.books import Books
from agentflow.ledger.database import insert_new
from agentflow.ledger.models import ATTEMPTS, RESERVATIONS
from agentflow.ledger.places import is_alive


def settle_lost(engine: Engine, books: Books, budget_key: str) -> int:
    """Charge what dead processes of this host left reserved in `budget_key`; returns how many calls that were."""
    with engine.begin() as connection:
        rows = connection.execute(select(RESERVATIONS).where(RESERVATIONS.c.budget_key == budget_key)).mappings().all()
        dead = {owner for owner in {row["owner"] for row in rows} if is_alive(owner) is False}
        lost = [row for row in rows if row["owner"] in dead]
        if lost:
            books.settle(connection, {row["id"]: row["micro"] for row in lost})
            # On PostgreSQL another process that opens the same purse may have written them off just now.
            connection.execute(
                insert_new(engine, ATTEMPTS),
                [
                    {
                        **{name: row[name] for name in ("key", "kind", "run_id", "tokens_in", "tokens_out", "credits")},
                        "id": row["id"],
                        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "status": "lost",
                        "http_status": None,
                        "usd_micro": row["micro"],
                        "assumed": True,
                        "latency_ms": None,
                        "error": "the process died before it stored what became of this call",
                    }
                    for row in lost
                ],
            )
    return len(lost)
