"""SIGTERM (a terminal that closes, `kill`, a cancelled deployment) ends a run as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM inside the block raises KeyboardInterrupt: report written, servers and workers stopped, nothing orphaned.

    Needed around a run and again inside its flow: Prefect sets a handler of its own while a flow runs, which raises an
    exception that Ray swallows while it waits for results. Outside the main thread, where no handler can be set, it
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt("terminated")

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
