"""What an artifact has cost so far, over all runs that worked on it: also those that failed or were killed.

In: the beginning of a piece of work, and the meter of a run. Out: the sum over all pieces of work on one artifact.
A run makes one artifact after another, so what it is billed between two beginnings was for the first of them. Work that
was killed has no end: all its run was billed since counts, also what is only written off later as lost. Ours.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, select, update

from agentflow.ledger.database import insert_new, reading, run_again, told
from agentflow.ledger.models import EFFORTS
from agentflow.records import canonical_json

Usage = dict[str, Any]


class Efforts:
    """The pieces of work of one run; `usage` gives the counts and costs of any run, as `Ledger.usage` does."""

    def __init__(self, engine: Engine, run_id: str, usage: Callable[[str], Usage]) -> None:
        self._engine, self._run_id, self._usage = engine, run_id, usage

    def begin(self, artifact: str) -> str:
        """This run begins to make `artifact` ("<stage>/<fingerprint>"); the id of this piece of work.

        Whatever the run was at before has ended. Raises StoreError.
        """
        now = canonical_json(self._usage(self._run_id))
        effort = uuid.uuid4().hex
        row = {"id": effort, "artifact": artifact, "run_id": self._run_id, "began": now, "ended": None}
        with told(self._engine):
            run_again(lambda: self._begin(row))
        return effort

    def spent(self, effort: str) -> Usage:
        """End this piece of work; what all work on its artifact took: as `Ledger.usage`, and `runs`, how many runs.

        Raises StoreError.
        """
        now = canonical_json(self._usage(self._run_id))
        with told(self._engine):
            run_again(lambda: self._end(effort, now))
        same = select(EFFORTS.c.artifact).where(EFFORTS.c.id == effort).scalar_subquery()
        with reading(self._engine) as connection:
            rows = connection.execute(select(EFFORTS).where(EFFORTS.c.artifact == same)).all()
        total: Usage = {}
        for row in rows:
            took = _plus(self._until(row), json.loads(row.began), -1)
            total = _plus(total, took) if total else took
        return {**total, "runs": len({row.run_id for row in rows})}

    def _until(self, row: Any) -> Usage:
        """What the run of `row` had been billed when that work ended; where it never did, all it was billed."""
        ended: Usage = self._usage(row.run_id) if row.ended is None else json.loads(row.ended)
        return ended

    def _begin(self, row: dict[str, Any]) -> None:
        others = EFFORTS.c.run_id == self._run_id, EFFORTS.c.id != row["id"], EFFORTS.c.ended.is_(None)
        with self._engine.begin() as connection:
            connection.execute(update(EFFORTS).where(*others).values(ended=row["began"]))
            connection.execute(insert_new(self._engine, EFFORTS), row)

    def _end(self, effort: str, now: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(EFFORTS).where(EFFORTS.c.id == effort).values(ended=now))


def _plus(usage: Usage, other: Usage, sign: int = 1) -> Usage:
    """Every number of `usage` plus `sign` times that of `other`, which has the same shape."""
    return {
        name: _plus(value, other[name], sign)
        if isinstance(value, dict)
        else round(value + sign * other[name], 9)  # USD are whole millionths, divided into floats
        for name, value in usage.items()
    }
