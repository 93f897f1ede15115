"""SIGTERM in a deployed flow leaves it as the exception by which Prefect tells Cancelled from Crashed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities import engine

from flows.signals import Terminated, cancellable


def wait_for_the_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def test_prefects_own_handler_stays_and_raises_what_ray_lets_through() -> None:
    seen: list[BaseException] = []
    with pytest.raises(TerminationSignal) as left, cancellable():
        # As while a flow runs: the engine has installed its handler, and asks for it by identity.
        previous = signal.signal(signal.SIGTERM, engine._prefect_sigterm_handler)
        try:
            assert engine.is_prefect_sigterm_handler_installed()
            wait_for_the_signal()
        except KeyboardInterrupt as error:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # what a second one must not interrupt: the report and the state
            seen.append(error)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    assert isinstance(seen[0], Terminated)
    assert not isinstance(left.value, KeyboardInterrupt) and left.value.signal == signal.SIGTERM
    assert engine.TerminationSignal is TerminationSignal


def test_the_interrupt_that_ray_makes_of_it_leaves_as_prefects_and_errors_as_they_are() -> None:
    with pytest.raises(TerminationSignal), cancellable():
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="as it is"), cancellable():
        raise ValueError("as it is")
    assert engine.TerminationSignal is TerminationSignal
