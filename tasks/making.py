"""Make an artifact once: find it, or compute it under its lock, and show it in Prefect's UI.

Every stage goes through `make`; whether anything is computed is decided by the manifest alone, never by Prefect's own
results.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.report.markdown import stage_markdown
from tasks.context import RunContext
from tasks.live_progress import shown_in_ui

SAMPLE_ROWS = 3


@dataclass(frozen=True)
class Made:
    """An artifact of this run."""

    name: str
    # Node of the plan: the stage, or e.g. "evaluate-sft".
    artifact: Artifact
    status: Literal["ran", "reused"]
    wall_s: float
    ended: float = 0.0
    # time.monotonic() of this process when it was there.


collected: ContextVar[dict[str, Made] | None] = ContextVar("collected", default=None)
# Where a run gathers what it made, so that a failed run can be reported too.


class Effort:
    """What an artifact has cost: seconds since this run began to make it, and what the ledger metered of all runs that
    worked on it.
    """

    def __init__(self, where: RunContext, identity: Identity) -> None:
        self._where = where
        self._started = time.monotonic()
        with where.access.open_ledger() as ledger:
            ledger.stops.lift()
            self._id = ledger.efforts.begin(f"{identity.stage}/{identity.fingerprint}")

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._started

    def spent(self) -> dict[str, Any]:
        """`wall_s` and `cost` as the store's commits take them; `cost` counts failed and killed runs too."""
        with self._where.access.open_ledger() as ledger:
            return {"wall_s": round(self.wall_s, 3), "cost": ledger.efforts.spent(self._id)}


def make(name: str, identity: Identity, where: RunContext, compute: Callable[[Store, Effort], Artifact]) -> Made:
    """The artifact of `identity`, computed only if it is not there whole.

    Two runs that want it at once compute it once.
    """
    log = get_run_logger()
    store = where.store()
    started = time.monotonic()

    def waiting() -> None:
        log.info("%s: another run is making %s; waiting for it", name, identity.fingerprint)

    with store.lock(identity.stage, identity.fingerprint, waiting):
        found = store.find_or_set_aside(identity.stage, identity.fingerprint)
        if found is None:
            with shown_in_ui(name, where, log):
                artifact = compute(store, Effort(where, identity))
        else:
            artifact = found
    ended = time.monotonic()
    made = Made(name, artifact, "reused" if found else "ran", ended - started, ended)
    rows = "" if artifact.manifest.rows is None else f", {artifact.manifest.rows} rows"
    log.info("%s: %s %s%s in %.1f s", name, made.status, artifact.ref, rows, made.wall_s)
    show(made)
    gathered = collected.get()
    if gathered is not None:
        gathered[name] = made
    return made


def show(made: Made) -> None:
    """Leave a markdown artifact with counts, rejects by reason and sample rows in Prefect's UI."""
    samples = (
        made.artifact.dataset().select(range(min(SAMPLE_ROWS, made.artifact.manifest.rows or 0))).to_list()
        if made.artifact.is_table
        else []
    )
    create_markdown_artifact(
        key=slug(made.name),
        markdown=stage_markdown(made.artifact.manifest.model_dump(mode="json"), samples),
        description=f"{made.status} {made.artifact.ref}",
    )


def slug(name: str) -> str:
    """A node's name as the key of its artifacts in Prefect."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
