"""What thousands of requests in flight need of their process: open files, and garbage collected less often.

In: how many requests a client may have in flight. Out: this process may open so many files, or a ConfigError that says
what is allowed. Nothing happens where the limit suffices already, and nothing for a few hundred requests.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import threading
from collections.abc import Iterator

from agentflow.errors import ConfigError

SPARE_FILES = 256
# For everything else the process has open: database, data sets, logs, libraries.
MANY = 256
OBJECTS_EACH = 12
_held_lock = threading.Lock()
_held = 0
# Connections that the clients of this process which are open now may use together.


@contextlib.contextmanager
def room_for(concurrency: int, *, service: str) -> Iterator[None]:
    """For the time of the block, files for `concurrency` connections beside those of this process's other clients.

    Raises ConfigError as `allow_connections` does: a stage that asks a teacher and a search needs room for both.
    """
    global _held
    with _held_lock:
        allow_connections(concurrency, service=service, beside=_held)
        _held += concurrency
    try:
        yield
    finally:
        with _held_lock:
            _held -= concurrency


def allow_connections(concurrency: int, *, service: str, beside: int = 0) -> None:
    """Raise this process's open-file limit as far as `concurrency` connections need `beside` others.

    Raises ConfigError where the hard limit, which only the administrator can raise, is lower.
    """
    needed = concurrency + beside + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        kept = f"{SPARE_FILES} are kept for other things" + (f" and {beside} for other clients" if beside else "")
        raise ConfigError(
            f"{service}.concurrency is {concurrency} but a process may open only {hard} files here, of which {kept}; "
            f"give at most {max(1, hard - SPARE_FILES - beside)}, or raise the hard limit (ulimit -Hn, or LimitNOFILE "
            "of the service)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextlib.contextmanager
def fewer_collections(concurrency: int) -> Iterator[None]:
    """Within the block, let as many more objects come up between two collections as the calls in flight keep alive.

    Otherwise the collector walks through all of them again and again: measured, 40 % of the CPU at 4,000 in flight.
    """
    before = gc.get_threshold()
    if concurrency > MANY:
        gc.set_threshold(max(before[0], OBJECTS_EACH * concurrency), max(before[1], 20), max(before[2], 50))
    try:
        yield
    finally:
        if concurrency > MANY:
            gc.set_threshold(*before)
