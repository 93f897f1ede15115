"""SIGTERM (a terminal that closes, `kill`, a cancelled deployment) ends a run as Ctrl-C does: with its report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import prefect.utilities.engine
from prefect.exceptions import TerminationSignal


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


class Terminated(TerminationSignal, KeyboardInterrupt):
    """What Prefect raises on SIGTERM, and what Ray lets through while it waits: of all exceptions of a signal handler
    it prints and drops every one but KeyboardInterrupt.

    Raised once: a run that is stopped hears it from `agentflow up`, from its worker and where a machine is shut down
    from that too, and the second signal would interrupt what the first one is for, report and state.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        _ignore_sigterm()


def _ignore_sigterm() -> None:
    # No SIG_IGN: processes that are started from here would inherit it.
    signal.signal(signal.SIGTERM, lambda number, frame: None)


@contextmanager
def cancellable() -> Iterator[None]:
    """For the body of a deployed flow: SIGTERM inside the block raises `Terminated`, and Prefect's TerminationSignal
    leaves it once everything inside has ended. Prefect knows whether somebody pressed Cancel, and the run ends
    Cancelled then, else Crashed.

    Prefect's own handler must stay until then: it says that the run can be cancelled only while that very function is
    installed.
    So the name is exchanged by which the handler (3.8) finds its exception; a test cancels a run. Outside the main
    thread, which no signal reaches, and inside another such block it does nothing.
    """
    engine = prefect.utilities.engine
    raised = engine.TerminationSignal
    if raised is Terminated or threading.current_thread() is not threading.main_thread():
        yield
        return
    engine.TerminationSignal = Terminated  # type: ignore[misc]
    try:
        yield
    except KeyboardInterrupt:
        # Ray raises one of its own for ours.
        raise TerminationSignal(signal.SIGTERM) from None
    finally:
        engine.TerminationSignal = raised  # type: ignore[misc]
