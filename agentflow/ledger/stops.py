"""Why a run asks no more with some key (bad, out of quota): in the ledger, so that all its processes know. Ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, select

from agentflow.ledger.database import insert_new, reading, run_again, told
from agentflow.ledger.models import STOPS


@dataclass(frozen=True)
class NoteStop:
    """Remember why a key's calls are pointless for a run. Result: None."""

    row: dict[str, Any]


class Stops:
    """The stops of one run; `later` queues an entry for the ledger's writer, `flush` waits for what is queued."""

    def __init__(
        self, engine: Engine, run_id: str, later: Callable[[NoteStop], None], flush: Callable[[], None]
    ) -> None:
        self._engine, self._run_id, self._later, self._flush = engine, run_id, later, flush

    def note(self, key: str, kind: str, message: str) -> None:
        """Remember for this run that asking with `key` is pointless: the first such note stays until `lift`."""
        clean = message.replace("\x00", "").encode("utf-8", "backslashreplace").decode()
        self._later(NoteStop({"run_id": self._run_id, "key": key, "kind": kind, "message": clean}))

    def of(self, key: str) -> tuple[str, str] | None:
        """Kind and message of the note about `key` in this run; None if there is none."""
        self._flush()
        with reading(self._engine) as connection:
            found = select(STOPS.c.kind, STOPS.c.message).where(STOPS.c.run_id == self._run_id, STOPS.c.key == key)
            row = connection.execute(found).one_or_none()
        return None if row is None else (row.kind, row.message)

    def lift(self) -> None:
        """Forget this run's stops: a stage begins, perhaps again, after somebody mended what stopped it."""
        self._flush()
        with told(self._engine):
            run_again(self._lift)

    def _lift(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(delete(STOPS).where(STOPS.c.run_id == self._run_id))


def apply(engine: Engine, connection: Connection, notes: list[NoteStop]) -> None:
    """Keep each key's first note."""
    for note in notes:
        connection.execute(insert_new(engine, STOPS), note.row)
