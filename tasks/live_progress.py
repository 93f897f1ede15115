"""How far a stage is, as a progress artifact of its task run in Prefect's UI: its progress file, shown there."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from agentflow.progress import read_progress
from tasks.context import RunContext

EVERY_S = 5.0
# A stage that is shorter shows none.


@contextmanager
def shown_in_ui(name: str, where: RunContext, log: logging.Logger | Any) -> Iterator[None]:
    """Show the progress of stage `name` while the block runs. What goes wrong with that is logged and stops nothing."""
    stop = threading.Event()
    context = copy_context()  # of the task run, so that the artifact belongs to it
    thread = threading.Thread(
        target=context.run, args=(_mirror, stop, name, where, log), daemon=True, name="progress-artifact"
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _mirror(stop: threading.Event, name: str, where: RunContext, log: logging.Logger | Any) -> None:
    started, shown = time.time(), -1.0
    artifact: UUID | None = None
    path = where.progress(name)
    while not stop.wait(EVERY_S):
        state = read_progress(path) if path.exists() and path.stat().st_mtime >= started else None
        if state is None or not state["total"]:
            continue
        percent = round(100.0 * state["done"] / state["total"], 1)
        if percent == shown:
            continue
        text = f"{name}: {state['done']} of {state['total']} {state['unit']} {state['note']}".strip()
        try:
            if artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", f"{name}-progress".lower())
                artifact = cast(UUID, create_progress_artifact(progress=percent, key=key, description=text))
            else:
                update_progress_artifact(artifact_id=artifact, progress=percent, description=text)
        except Exception as error:  # the server may be away for a while; the stage itself is not
            log.warning("%s: its progress cannot be shown in Prefect: %s", name, error)
            return
        shown = percent
