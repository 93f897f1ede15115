"""What many requests in flight need of their process: open files, and garbage collected less often.

In: how many requests a client may have in flight. Out: this process may open so many files, or a ConfigError that says
what is allowed. No limit is touched where it suffices already.
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
FEWEST_OBJECTS = 10_000
OBJECTS_EACH = 12
# New objects between two collections: at least so many, and so many for each call that may be in flight.
_held_lock = threading.Lock()
_held = 0
# Connections that the clients of this process which are open now may use together.
_collecting_lock = threading.Lock()
_collecting: list[int] = []
# The concurrency of every open client.
_usual: list[int] = []
# The collector's thresholds before the first of them.


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
    """Within the block, collect garbage less often, and only among what came up since the outermost block began.

    A full collection walks through every object of every imported library: measured, 140 to 190 ms in which no request
    of any client leaves, in the third round of requests. With the usual thresholds it also walks through all calls in
    flight again and again: 40 % of the CPU time at 4,000. What was there before and goes away in cycles meanwhile is
    collected after the last block.
    """
    with _collecting_lock:
        if not _collecting:
            _usual[:] = gc.get_threshold()
            gc.freeze()
        _collecting.append(concurrency)
        _set_thresholds()
    try:
        yield
    finally:
        with _collecting_lock:
            _collecting.remove(concurrency)
            _set_thresholds()
            if not _collecting:
                gc.unfreeze()


def _set_thresholds() -> None:
    young, middle, old = _usual
    if _collecting:
        young = max(young, FEWEST_OBJECTS, OBJECTS_EACH * sum(_collecting))
        middle, old = max(middle, 20), max(old, 50)
    gc.set_threshold(young, middle, old)
