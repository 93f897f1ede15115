"""What a kill, a second opener, or a damaged file does to the ledger: paid answers stay, damage is never used."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.errors import ReplayMissing, StoreError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall

DRIVER = Path(__file__).parent / "ledger_driver.py"
ROOT = Path(__file__).parents[3]
IN_FLIGHT = 8


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def numbered(number: int) -> PaidCall:
    return PaidCall("teacher", "local/0", "m", {"number": number}, 0, "1")


def test_after_kill_9_only_the_calls_in_flight_are_paid_again(tmp_path: Path) -> None:
    database, log, count, kills = str(tmp_path / "l.db"), tmp_path / "sent.log", 120, 0
    for lines in (20, 70):
        process = start("slow", database, "run", str(log), str(count))
        while process.poll() is None and (not log.exists() or len(log.read_bytes().splitlines()) < lines):
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    process = start("slow", database, "run", str(log), str(count))
    assert process.communicate(timeout=60)[0] == "done\n"
    sent = Counter(log.read_text().split())
    assert len(sent) == count
    assert sum(sent.values()) <= count + kills * IN_FLIGHT
    with Ledger.open(database, run_id="reader") as ledger:
        used, purse = ledger.usage("run"), ledger.stats()["budgets"]["night"]
    assert used["teacher"]["paid"] == count
    # What was in flight at a kill was perhaps billed: it stays charged at its worst case.
    assert sum(sent.values()) - count <= used["teacher"]["lost"] <= kills * IN_FLIGHT
    assert purse["reserved_usd"] == 0
    assert purse["spent_usd"] == pytest.approx(count * 0.01 + used["teacher"]["lost"] * 0.02)
    assert purse["spent_usd"] == pytest.approx(used["usd"])


def test_the_reservations_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    database = str(tmp_path / "l.db")

    async def run() -> None:
        with Ledger.open(database, run_id="a", budget_usd=1, budget_key="night") as one:

            async def send() -> Answer:
                with Ledger.open(database, run_id="b", budget_usd=1, budget_key="night") as other:
                    assert other.stats()["budgets"]["night"]["reserved_usd"] == 0.5
                return Answer({}, Cost(usd=0.1))

            await one.ask(numbered(0), send, Cost(usd=0.5))
            assert one.stats()["budgets"]["night"] == {"limit_usd": 1, "spent_usd": 0.1, "reserved_usd": 0}

    asyncio.run(run())


def test_many_processes_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    database = str(tmp_path / "new" / "l.db")
    processes = [start("open", database) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 3
    with Ledger.open(database, run_id="r") as ledger:
        assert ledger.stats() == {"answers": {}, "attempts": {}, "budgets": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "l.db"

    async def fill(ledger: Ledger) -> None:
        for number in range(30):

            async def send(number: int = number) -> Answer:
                return Answer({"number": number, "text": "x" * 400}, Cost())

            await ledger.ask(numbered(number), send, Cost())

    with Ledger.open(str(path), run_id="r") as ledger:
        asyncio.run(fill(ledger))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


async def never_sent() -> Answer:
    raise AssertionError("replay sends nothing")


def opens_clean_or_not_at_all(path: Path) -> None:
    """Whatever the bytes are, an answer that is given is one that was stored."""
    try:
        with Ledger.open(str(path), run_id="r", mode="replay") as ledger:
            for number in range(30):
                true = {"number": number, "text": "x" * 400}
                entry = ledger.get(numbered(number).key)
                if entry is not None and entry.get("response") is not None:
                    assert entry["response"] == true
                with contextlib.suppress(ReplayMissing):
                    assert asyncio.run(ledger.ask(numbered(number), never_sent, Cost())).response == true
            ledger.usage()
    except StoreError as error:
        assert str(path) in str(error)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(min_value=0, max_value=1))
def test_a_truncated_ledger_gives_true_answers_or_a_store_error(tmp_path: Path, whole: Path, share: float) -> None:
    path = tmp_path / f"cut{share}.db"
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    opens_clean_or_not_at_all(path)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(min_value=0, max_value=0.999), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_gives_true_answers_or_a_store_error(tmp_path: Path, whole: Path, share: float, bit: int) -> None:
    damaged = bytearray(whole.read_bytes())
    damaged[int(share * len(damaged))] ^= 1 << bit
    path = tmp_path / f"flip{share}-{bit}.db"
    path.write_bytes(damaged)
    opens_clean_or_not_at_all(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"this is no database at all, but long enough to look", "damaged or no ledger")],
)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content * 100)
    with pytest.raises(StoreError, match=words) as caught:
        Ledger.open(str(path), run_id="r")
    assert str(path) in str(caught.value)


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    Ledger.open(str(path), run_id="r").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ledger_meta SET value = '99'")
    connection.close()
    with pytest.raises(StoreError, match="schema version 99"):
        Ledger.open(str(path), run_id="r")


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "://"])
def test_a_url_that_keeps_nothing_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(StoreError, match="postgresql://"):
        Ledger.open(url, run_id="r")


def test_an_unwritable_place_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="writable place"):
        Ledger.open(str(tmp_path / "file" / "l.db"), run_id="r")


def test_the_password_of_a_server_stays_out_of_the_error() -> None:
    with pytest.raises(StoreError) as caught:
        Ledger.open("postgresql://user:canary-4711@127.0.0.1:9/none", run_id="r")
    assert "canary-4711" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    assert "canary-4711" not in json.dumps(repr(caught.value.__context__))
