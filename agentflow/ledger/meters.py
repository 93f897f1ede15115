"""What a run used and what stands under a key: read-only views for reports, `explain-row` and estimates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, case, func, select

from agentflow.ledger.calls import KINDS
from agentflow.ledger.database import in_chunks, reading
from agentflow.ledger.models import ATTEMPTS, BUDGETS, CALLS, REPLAYS


@dataclass(frozen=True)
class MeanTokens:
    """What the answers of one model took on average."""

    answers: int
    tokens_in: float
    tokens_out: float


def mean_tokens(engine: Engine, provider: str, model: str) -> MeanTokens:
    """Over all stored teacher answers of `model` at `provider` whose tokens the service told."""
    columns = func.count(), func.avg(ATTEMPTS.c.tokens_in), func.avg(ATTEMPTS.c.tokens_out)
    told = ATTEMPTS.c.status == "ok", ~ATTEMPTS.c.assumed
    of_model = CALLS.c.kind == "teacher", CALLS.c.provider == provider, CALLS.c.model == model
    statement = select(*columns).select_from(ATTEMPTS).join(CALLS, CALLS.c.key == ATTEMPTS.c.key)
    with reading(engine) as connection:
        count, mean_in, mean_out = connection.execute(statement.where(*told, *of_model)).one()
    return MeanTokens(int(count), float(mean_in or 0), float(mean_out or 0))


def stored_keys(engine: Engine, keys: Iterable[str]) -> set[str]:
    """See `Ledger.stored`."""
    found: set[str] = set()
    with reading(engine) as connection:
        for chunk in in_chunks(keys):
            found.update(connection.scalars(select(CALLS.c.key).where(CALLS.c.key.in_(chunk))))
    return found


def count_attempts(engine: Engine, key: str, statuses: Sequence[str]) -> int:
    """See `Ledger.count_attempts`."""
    of_key = select(func.count()).where(ATTEMPTS.c.key == key, ATTEMPTS.c.status.in_(statuses))
    with reading(engine) as connection:
        return int(connection.scalar(of_key) or 0)


def usage(engine: Engine, run_id: str | None) -> dict[str, Any]:
    """Counts and costs of one run, or of all with None; see `Ledger.usage`."""
    report: dict[str, Any] = {kind: {"paid": 0, "replayed": 0, "failed": 0, "lost": 0} for kind in KINDS}
    attempts = select(
        ATTEMPTS.c.kind,
        func.sum(case((ATTEMPTS.c.status == "ok", 1), else_=0)).label("paid"),
        func.sum(case((ATTEMPTS.c.status.in_(("ok", "lost")), 0), else_=1)).label("failed"),
        func.sum(case((ATTEMPTS.c.status == "lost", 1), else_=0)).label("lost"),
        func.sum(ATTEMPTS.c.tokens_in).label("tokens_in"),
        func.sum(ATTEMPTS.c.tokens_out).label("tokens_out"),
        func.sum(ATTEMPTS.c.credits).label("credits"),
        func.sum(ATTEMPTS.c.usd_micro).label("micro"),
        func.sum(case((ATTEMPTS.c.assumed, ATTEMPTS.c.usd_micro), else_=0)).label("assumed"),
    ).group_by(ATTEMPTS.c.kind)
    replays = select(REPLAYS.c.kind, func.sum(REPLAYS.c.replayed).label("n")).group_by(REPLAYS.c.kind)
    if run_id is not None:
        attempts, replays = attempts.where(ATTEMPTS.c.run_id == run_id), replays.where(REPLAYS.c.run_id == run_id)
    with reading(engine) as connection:
        asked, replayed = connection.execute(attempts).all(), connection.execute(replays).all()
    for row in asked:
        counts = {"paid": int(row.paid), "failed": int(row.failed), "lost": int(row.lost)}
        report.setdefault(row.kind, {"replayed": 0}).update(counts)
    for replay in replayed:
        report.setdefault(replay.kind, {})["replayed"] = int(replay.n)
    return {
        **report,
        "tokens_in": sum(int(row.tokens_in) for row in asked),
        "tokens_out": sum(int(row.tokens_out) for row in asked),
        "credits": float(sum(row.credits for row in asked)),
        "usd": sum(int(row.micro) for row in asked) / 1_000_000,
        "usd_assumed": sum(int(row.assumed) for row in asked) / 1_000_000,
    }


def meter_line(used: dict[str, Any], purse: dict[str, float] | None = None) -> str:
    """`usage` in one short line for a progress display; `purse` is the budget's entry in `stats`, if there is one."""
    ends = {name: sum(used[kind][name] for kind in KINDS) for name in ("paid", "replayed", "failed", "lost")}
    always = ("paid", "replayed")
    calls = "calls " + ", ".join(f"{count:,} {name}" for name, count in ends.items() if count or name in always)
    tokens = used["tokens_in"] + used["tokens_out"]
    assumed = f" ({used['usd_assumed']:,.4f} of it assumed)" if used["usd_assumed"] else ""
    spent = f"{used['usd']:,.4f} USD{assumed}"
    if purse is not None:
        spent += f" (budget {purse['spent_usd']:,.4f} of {purse['limit_usd']:,.4f})"
    return f"{calls}, {tokens:,} tokens, {spent}"


def entry(engine: Engine, key: str) -> dict[str, Any] | None:
    """All that is known about one key; see `Ledger.get`."""
    with reading(engine) as connection:
        call = connection.execute(select(CALLS).where(CALLS.c.key == key)).mappings().one_or_none()
        attempts = connection.execute(
            select(ATTEMPTS).where(ATTEMPTS.c.key == key).order_by(ATTEMPTS.c.at, ATTEMPTS.c.id)
        ).mappings()
        tried = [
            {**{name: value for name, value in row.items() if name != "usd_micro"}, "usd": row["usd_micro"] / 1_000_000}
            for row in attempts
        ]
    if call is None and not tried:
        return None
    answer: dict[str, Any] = {"key": key, "request": None, "response": None, "response_sha256": None}
    if call is not None:
        answer |= {name: value for name, value in call.items() if not name.endswith("_json")}
        answer |= {"request": _parsed(call["request_json"]), "response_json": call["response_json"]}
    return {**answer, "attempts": tried}


def _parsed(text: Any) -> Any:
    """The stored request, None if a damaged file gave something else. (Its key would show a changed one.)"""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None


def stats(engine: Engine) -> dict[str, Any]:
    """Size of the whole ledger: stored answers by kind, attempts by status, budgets in USD."""
    with reading(engine) as connection:
        count = func.count().label("n")
        calls = connection.execute(select(CALLS.c.kind, count).group_by(CALLS.c.kind)).all()
        attempts = connection.execute(select(ATTEMPTS.c.status, count).group_by(ATTEMPTS.c.status)).all()
        purses = connection.execute(select(BUDGETS).order_by(BUDGETS.c.key)).all()
    return {
        "answers": {row.kind: row.n for row in calls},
        "attempts": {row.status: row.n for row in attempts},
        "budgets": {
            purse.key: {
                "limit_usd": purse.limit_micro / 1_000_000,
                "spent_usd": purse.spent_micro / 1_000_000,
                "reserved_usd": purse.reserved_micro / 1_000_000,
            }
            for purse in purses
        },
    }
