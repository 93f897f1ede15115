"""Requests and tokens a minute: never more in any minute, nearly all of them used, whatever the clocks do.

Time is virtual; the database is real. What the service would see is `sent`: instants in real seconds.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from agentflow.ledger import Ledger
from agentflow.ledger.database import open_engine
from agentflow.ledger.limits import SPREAD_US, Extend, Grant, Granted, Limits, Pause, Settle, burst_of
from agentflow.ledger.models import RATE_LIMITS, RATE_LOG

KEY = "k" * 64


class Host:
    """A process with a clock of its own: virtual real time plus what its machine's boot makes of it."""

    numbers = itertools.count()

    def __init__(self, engine: Engine, now: Callable[[], float], boot: str = "boot", offset: float = 0.0) -> None:
        self._engine = engine
        self._limits = Limits(engine, place=boot, clock=lambda: now() + offset)

    def do(self, entry: Any) -> Granted:
        with self._engine.begin() as connection:
            (result,) = self._limits.apply(connection, [entry])
        return result  # type: ignore[return-value]

    def ask(
        self, n: int, *, rpm: int | None = 60, tpm: int | None = None, tokens: int = 0, hold_s: float = 0
    ) -> Granted:
        ids = tuple(f"{next(self.numbers):032d}" for _ in range(n))
        self.last = ids
        return self.do(Grant(KEY, rpm, tpm, ids, (tokens,) * n, round(1e6 * hold_s)))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(str(tmp_path / "ledger.db"))
    yield opened
    opened.dispose()


class Now:
    """Virtual real seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


def drive(hosts: list[Host], now: Now, seconds: float, rpm: int) -> list[float]:
    """All hosts ask whenever they are told to; the instants at which requests were sent."""
    chooser = random.Random(1)
    sent: list[float] = []
    again = dict.fromkeys(range(len(hosts)), now())
    end = now() + seconds
    while (soonest := min(again.values())) < end:
        now.seconds = max(now.seconds, soonest)
        at = chooser.choice([i for i, when in again.items() if when <= now()])
        granted = hosts[at].ask(4, rpm=rpm)
        sent += [now()] * granted.count
        again[at] = now() + granted.wait_s + chooser.uniform(0.001, 0.02)
    return sent


def most_in(sent: list[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in sent) for start in sent)


def test_two_processes_use_nearly_all_of_a_limit_and_no_minute_ever_holds_more(engine: Engine, now: Now) -> None:
    sent = drive([Host(engine, now), Host(engine, now)], now, 180, rpm=120)
    assert most_in(sent, 60) <= 120
    assert len(sent) / 3 >= 0.95 * 120
    assert most_in(sent, SPREAD_US / 1e6) <= burst_of(120), "spread, not all at the start of each minute"


@pytest.mark.parametrize("rpm", [1, 7])
def test_small_limits_hold_too(engine: Engine, now: Now, rpm: int) -> None:
    sent = drive([Host(engine, now), Host(engine, now)], now, 300, rpm=rpm)
    assert most_in(sent, 60) == rpm
    assert len(sent) >= 0.95 * rpm * 5


def test_processes_of_different_machines_share_one_minute(engine: Engine, now: Now) -> None:
    hosts = [Host(engine, now, f"boot{n}", offset) for n, offset in enumerate((0, 1e6, -900, 17.5))]
    sent = drive(hosts, now, 130, rpm=60)
    assert most_in(sent, 60) <= 60
    assert len(sent) >= 0.95 * 60 * 2


def test_a_new_process_knows_what_others_of_its_machine_sent(engine: Engine, now: Now) -> None:
    Host(engine, now).ask(1, rpm=1)
    now.seconds += 30
    granted = Host(engine, now).ask(1, rpm=1)
    assert granted.count == 0 and granted.wait_s == pytest.approx(31, abs=0.01)
    now.seconds += granted.wait_s + 0.001
    assert Host(engine, now).ask(1, rpm=1).count == 1


def test_a_reboot_or_an_unknown_machine_only_makes_it_wait_longer(engine: Engine, now: Now) -> None:
    Host(engine, now).ask(1, rpm=1)
    now.seconds += 3600
    for boot, offset in (("boot", -4500.0), ("other", 0.0)):  # a clock that began anew; one nobody knows
        assert Host(engine, now, boot, offset).ask(1, rpm=1).count == 0
    stranger = Host(engine, now, "another")
    assert stranger.ask(1, rpm=1).count == 0
    now.seconds += 61.1
    assert stranger.ask(1, rpm=1).count == 1


def test_no_wall_clock_is_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(str(engine.url.database), run_id="r") as ledger:
        entry = Grant(KEY, 1, None, ("a" * 32,), (0,))
        assert ledger._writer.submit(entry).result().count == 1
        for jump in (86_400, -86_400):
            monkeypatch.setattr(time, "time", lambda jump=jump: jump)
            granted = ledger._writer.submit(Grant(KEY, 1, None, ("b" * 32,), (0,))).result()
            assert granted.count == 0 and 0 < granted.wait_s <= 61


def test_tokens_are_held_at_their_worst_and_settled_to_what_was_used(engine: Engine, now: Now) -> None:
    host = Host(engine, now)
    assert host.ask(3, rpm=None, tpm=1000, tokens=400, hold_s=300).count == 2
    first, second, _ = host.last
    assert host.ask(1, rpm=None, tpm=1000, tokens=400).count == 0
    host.do(Settle(KEY, first, 50))
    assert host.ask(1, rpm=None, tpm=1000, tokens=400, hold_s=300).count == 1, "450 are free"
    host.do(Settle(KEY, second, None))
    now.seconds += 59.9
    assert host.ask(1, rpm=None, tpm=1000, tokens=400).count == 0, "unknown stays counted at its worst"
    now.seconds += 0.2
    assert host.ask(2, rpm=None, tpm=1000, tokens=300, hold_s=300).count == 2, "only what is under way is held"


def test_a_dead_processs_tokens_are_free_again_in_the_end(engine: Engine, now: Now) -> None:
    host = Host(engine, now)
    host.ask(1, rpm=None, tpm=1000, tokens=1000, hold_s=300)
    now.seconds += 360
    assert host.ask(1, rpm=None, tpm=1000, tokens=1).count == 0
    now.seconds += 1.1
    assert host.ask(1, rpm=None, tpm=1000, tokens=1).count == 1


def test_a_call_larger_than_the_whole_limit_goes_alone(engine: Engine, now: Now) -> None:
    host = Host(engine, now)
    assert host.ask(2, rpm=None, tpm=1000, tokens=5000).count == 1
    host.do(Settle(KEY, host.last[0], 10))
    assert host.ask(1, rpm=None, tpm=1000, tokens=5000).count == 0
    now.seconds += 61
    assert host.ask(1, rpm=None, tpm=1000, tokens=5000).count == 1


def test_a_retry_after_holds_for_every_process_of_the_key(engine: Engine, now: Now) -> None:
    one, other = Host(engine, now), Host(engine, now)
    one.do(Pause(KEY, 30))
    one.do(Pause(KEY, 5))
    granted = other.ask(1)
    assert granted.count == 0 and granted.wait_s == pytest.approx(30, abs=0.01)
    now.seconds += 30.01
    assert other.ask(1).count == 1


def test_what_was_sent_late_counts_from_then(engine: Engine, now: Now) -> None:
    host = Host(engine, now)
    granted = host.ask(1, rpm=1)
    now.seconds += 20
    host.do(Extend(KEY, granted.entry))
    now.seconds += 60.5
    assert host.ask(1, rpm=1).count == 0
    now.seconds += 0.6
    assert host.ask(1, rpm=1).count == 1


def test_keys_do_not_share_and_what_counts_no_more_is_removed(engine: Engine, now: Now) -> None:
    host = Host(engine, now)
    host.ask(1, rpm=1)
    assert host.do(Grant("other", 1, None, ("c" * 32,), (0,))).count == 1
    for _ in range(3):
        now.seconds += 62
        assert host.ask(1, rpm=1).count == 1
    with engine.begin() as connection:
        assert len(connection.execute(select(RATE_LOG).where(RATE_LOG.c.limit_key == KEY)).all()) == 1
        assert {row.key for row in connection.execute(select(RATE_LIMITS))} == {KEY, "other"}


def test_a_stop_is_known_to_every_opening_of_the_run_until_it_is_lifted(tmp_path: Path) -> None:
    database = str(tmp_path / "ledger.db")
    with Ledger.open(database, run_id="r") as ledger:
        ledger.stops.note(KEY, "auth", "bad key \ud800")
        ledger.stops.note(KEY, "quota", "later")
    with Ledger.open(database, run_id="r") as ledger, Ledger.open(database, run_id="s") as elsewhere:
        assert ledger.stops.of(KEY) == ("auth", "bad key \\ud800")
        assert elsewhere.stops.of(KEY) is None
        ledger.stops.lift()
        assert ledger.stops.of(KEY) is None
