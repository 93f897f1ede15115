"""Who left something in the ledger, and whether it still lives, with real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentflow.ledger import places
from agentflow.ledger.places import host_and_boot, is_alive, me, owner_of

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_living_process_lives_and_one_that_was_killed_does_not(other: subprocess.Popen[bytes]) -> None:
    owner = owner_of(other.pid)
    assert (is_alive(me()), is_alive(owner)) == (True, True)
    other.kill()
    other.wait(10)
    assert is_alive(owner) is False


@needs_proc
def test_a_killed_process_that_nobody_has_waited_for_is_dead(other: subprocess.Popen[bytes]) -> None:
    owner = owner_of(other.pid)
    other.kill()
    until = time.monotonic() + 10
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    assert is_alive(owner) is False


@needs_proc
def test_a_clock_that_is_set_makes_no_living_process_look_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil adds the boot time to the start, and that moves with the clock."""
    owner = me()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: 5_000_000_000.0)
    assert is_alive(owner) is True


def test_another_process_with_the_same_number_is_another_one() -> None:
    place, pid, start = me().rsplit("|", 2)
    began_before = start.replace("ticks", "ticks1") if start.startswith("ticks") else "1.0"
    assert is_alive(f"{place}|{pid}|{began_before}") is False
    assert is_alive(f"{place}|{pid}|{psutil.Process().create_time():.2f}") is True, "as a ledger of before says it"


@pytest.mark.parametrize("place", ["elsewhere|boot", f"{host_and_boot()}x", f"{host_and_boot()} pid:[4026532999]"])
def test_of_another_host_another_boot_or_another_container_nothing_is_known(place: str) -> None:
    assert is_alive(me().replace(host_and_boot(), place)) is None


def test_a_container_says_that_its_process_numbers_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"pid:[4026531836]": "", "pid:[4026532999]": " pid:[4026532999]"}
    for namespace, said in names.items():
        monkeypatch.setattr(places.os, "readlink", lambda _path, found=namespace: found)
        assert host_and_boot.__wrapped__() == f"{places.platform.node()}|{places._boot_id()}{said}"


def test_a_process_that_may_not_be_looked_at_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = me()

    def hidden(pid: int) -> int:
        raise psutil.NoSuchProcess(pid)

    def denied(pid: int) -> int:
        raise psutil.AccessDenied(pid)

    for refusal in (hidden, denied):
        monkeypatch.setattr(places, "_start_ticks", refusal)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self, refusal=refusal: refusal(self.pid))
        assert is_alive(owner) is None
