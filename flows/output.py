"""Where a deployed run's own lines go: into the worker's log, without the worker in between."""

from __future__ import annotations

import os
import sys

WORKER_LOG = "AGENTFLOW_WORKER_LOG"
# Set by `agentflow up`; without it a run prints to its worker.


def outlive_worker() -> None:
    """From here on append to the worker's log itself. Through the worker's pipe a run would end with the worker: its
    next line would raise BrokenPipeError.
    """
    log = os.environ.get(WORKER_LOG)
    if not log:
        return
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
