"""What `Ledger.ask` does with a call: asks once, keeps what came, and gives it again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import CutAnswer, MalformedAnswer, RateLimited, ReplayMissing, StoreError
from agentflow.ledger import Answer, Cost, Ledger, PaidCall, Refusal

WORST = Cost(tokens_in=100, tokens_out=200, usd=0.02)


def call(number: int = 0, **changes: Any) -> PaidCall:
    fields = {"kind": "teacher", "provider": "local/0", "model": "m", "sample_index": 0, "edition": "1", **changes}
    return PaidCall(request={"number": number}, **fields)


class Service:
    """A counted stand-in for one HTTP request; the ledger's own code is all real."""

    def __init__(self, outcome: Callable[[], Any] | None = None) -> None:
        self.sent = 0
        self._outcome = outcome or (lambda: Answer({"text": "42"}, Cost(10, 20, usd=0.001)))

    async def __call__(self) -> Answer | Refusal:
        self.sent += 1
        await asyncio.sleep(0.01)
        outcome = self._outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def ask(database: str, service: Service, asked: PaidCall, *, mode: Any = "record", run_id: str = "run") -> Any:
    with Ledger.open(database, run_id=run_id, mode=mode) as ledger:
        return asyncio.run(ledger.ask(asked, service, WORST))


def usage(database: str, run_id: str | None = "run") -> dict[str, Any]:
    with Ledger.open(database, run_id="reader") as ledger:
        return ledger.usage(run_id)


def test_a_second_run_replays_and_asks_nothing(database: str) -> None:
    service = Service()
    first = ask(database, service, call())
    second = ask(database, service, call(), run_id="again")
    assert (first.paid, second.paid, service.sent) == (True, False, 1)
    assert first.response == second.response == {"text": "42"}
    assert first.fetched_at == second.fetched_at
    assert usage(database)["teacher"] == {"paid": 1, "replayed": 0, "failed": 0, "lost": 0}
    assert usage(database, "again")["teacher"] == {"paid": 0, "replayed": 1, "failed": 0, "lost": 0}


def test_every_field_of_a_call_is_part_of_its_key() -> None:
    changes = [{"provider": "https://x"}, {"model": "n"}, {"sample_index": 1}, {"edition": "2"}, {"kind": "search"}]
    keys = {call().key, call(1).key, *(call(**change).key for change in changes)}
    assert len(keys) == 2 + len(changes)


def test_the_order_of_request_fields_does_not_change_the_key() -> None:
    one = PaidCall("teacher", "p", "m", {"a": 1, "b": [{"c": 2, "d": 3}]}, 0, "1")
    other = PaidCall("teacher", "p", "m", {"b": [{"d": 3, "c": 2}], "a": 1}, 0, "1")
    assert one.key == other.key


def test_replay_fails_the_row_and_replay_or_fail_stops_the_run(database: str) -> None:
    service = Service()
    with pytest.raises(ReplayMissing) as of_row:
        ask(database, service, call(), mode="replay")
    with pytest.raises(ReplayMissing) as of_run:
        ask(database, service, call(), mode="replay_or_fail")
    assert (of_row.value.stops_run, of_run.value.stops_run, service.sent) == (False, True, 0)
    ask(database, service, call())
    assert ask(database, service, call(), mode="replay").response == {"text": "42"}
    assert service.sent == 1


def test_an_unknown_mode_is_refused_with_the_allowed_ones(database: str) -> None:
    with pytest.raises(ValueError, match="record, replay, replay_or_fail"):
        Ledger.open(database, run_id="r", mode="rewind")  # type: ignore[arg-type]


def test_a_failed_attempt_is_kept_with_its_cost_and_asked_again(database: str) -> None:
    outcomes = iter(
        [Refusal(CutAnswer("cut", status=200), Cost(10, 2048, usd=0.004)), Answer({"ok": 1}, Cost(usd=0.001))]
    )
    service = Service(lambda: next(outcomes))
    with pytest.raises(CutAnswer):
        ask(database, service, call())
    assert ask(database, service, call()).paid
    with Ledger.open(database, run_id="r") as ledger:
        entry = ledger.get(call().key)
    assert entry is not None
    assert [(a["status"], a["usd"], a["http_status"]) for a in entry["attempts"]] == [
        ("cut", 0.004, 200),
        ("ok", 0.001, 200),
    ]
    assert usage(database)["teacher"] == {"paid": 1, "replayed": 0, "failed": 1, "lost": 0}
    assert usage(database)["usd"] == pytest.approx(0.005)


def test_a_raised_failure_is_kept_as_an_attempt_too(database: str) -> None:
    with pytest.raises(RateLimited):
        ask(database, Service(lambda: RateLimited("slow down", status=429)), call())
    assert usage(database)["teacher"]["failed"] == 1
    assert usage(database)["usd"] == 0


def test_a_failure_of_unknown_cost_counts_its_worst_case(database: str) -> None:
    with pytest.raises(MalformedAnswer):
        ask(database, Service(lambda: Refusal(MalformedAnswer("html"), None)), call())
    counted = usage(database)
    assert (counted["usd"], counted["usd_assumed"], counted["tokens_out"]) == (0.02, 0.02, 200)


def test_an_answer_that_json_cannot_keep_is_a_failure(database: str) -> None:
    with pytest.raises(MalformedAnswer):
        ask(database, Service(lambda: Answer({"score": float("nan")}, Cost(usd=0.001))), call())
    assert usage(database)["teacher"]["failed"] == 1


def test_lone_surrogates_and_nul_come_back_as_they_were(database: str) -> None:
    odd = {"text": "\ud800 \x00 \u202e \U0001f600"}
    assert ask(database, Service(lambda: Answer(odd, Cost())), call()).response == odd
    assert ask(database, Service(), call(), mode="replay").response == odd


def test_concurrent_asks_of_one_key_share_one_call(database: str) -> None:
    service = Service()

    async def many(ledger: Ledger) -> list[Any]:
        return await asyncio.gather(*(ledger.ask(call(), service, WORST) for _ in range(20)))

    with Ledger.open(database, run_id="run") as ledger:
        recorded = asyncio.run(many(ledger))
    assert service.sent == 1
    assert sum(one.paid for one in recorded) == 1
    assert usage(database)["teacher"] == {"paid": 1, "replayed": 19, "failed": 0, "lost": 0}


def test_two_threads_with_loops_of_their_own_share_one_call(database: str) -> None:
    service, paid = Service(), []
    barrier = threading.Barrier(2)
    with Ledger.open(database, run_id="run") as ledger:

        def run() -> None:
            barrier.wait()
            paid.append([asyncio.run(ledger.ask(call(n), service, WORST)).paid for n in range(5)])

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert service.sent == 5
    assert sum(sum(flags) for flags in paid) == 5


def test_when_the_asking_one_is_cancelled_a_waiting_one_takes_over(database: str) -> None:
    service = Service()

    async def run(ledger: Ledger) -> Any:
        first = asyncio.create_task(ledger.ask(call(), service, WORST))
        await asyncio.sleep(0.005)
        second = asyncio.create_task(ledger.ask(call(), service, WORST))
        await asyncio.sleep(0)
        first.cancel()
        recorded = await second
        assert first.cancelled()
        return recorded

    with Ledger.open(database, run_id="run") as ledger:
        assert asyncio.run(run(ledger)).paid
    assert usage(database)["teacher"]["paid"] == 1


def test_a_call_cancelled_while_its_answer_is_being_stored_is_not_paid_again(database: str) -> None:
    second = Service()

    async def run(ledger: Ledger) -> Any:
        other = sqlite3.connect(database, isolation_level=None)

        def answer() -> Answer:
            other.execute("BEGIN IMMEDIATE")  # nothing can be committed from now on
            return Answer({"text": "42"}, Cost(10, 20, usd=0.001))

        first = Service(answer)
        asking = asyncio.create_task(ledger.ask(call(), first, WORST))
        while not other.in_transaction:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        asking.cancel()
        again = asyncio.create_task(ledger.ask(call(), second, WORST))
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert first.sent == 1
        return await again

    with Ledger.open(database, run_id="run") as ledger:
        recorded = asyncio.run(run(ledger))
    assert (recorded.paid, second.sent) == (False, 0)


def test_after_an_answer_that_could_not_be_stored_nothing_further_is_sent(database: str) -> None:
    sent: list[int] = []

    async def run(ledger: Ledger) -> list[Any]:
        slot = asyncio.Semaphore(1)

        def asked(number: int) -> Any:
            async def send() -> Answer:
                sent.append(number)
                with sqlite3.connect(database) as other:
                    other.execute("DROP TABLE IF EXISTS attempts")
                await asyncio.sleep(0.1)  # longer than a commit takes to fail
                return Answer({"text": "42"}, Cost())

            return ledger.ask(call(number), send, WORST, admit=lambda: slot)

        return await asyncio.gather(*map(asked, range(5)), return_exceptions=True)

    with Ledger.open(database, run_id="run") as ledger:
        ended = asyncio.run(run(ledger))
    assert all(isinstance(one, StoreError) for one in ended)
    assert len(sent) <= 2, "the first, and the one that was under way when it failed"


def test_a_cancelled_waiter_disturbs_nobody(database: str) -> None:
    async def run(ledger: Ledger) -> Any:
        first = asyncio.create_task(ledger.ask(call(), Service(), WORST))
        await asyncio.sleep(0.002)
        second = asyncio.create_task(ledger.ask(call(), Service(), WORST))
        await asyncio.sleep(0)
        second.cancel()
        return await first

    with Ledger.open(database, run_id="run") as ledger:
        assert asyncio.run(run(ledger)).response == {"text": "42"}


def test_an_answer_is_on_disk_before_the_asker_has_it(database: str) -> None:
    async def run(ledger: Ledger) -> int:
        await ledger.ask(call(), Service(), WORST)
        with sqlite3.connect(database) as other:
            return int(other.execute("SELECT count(*) FROM calls").fetchone()[0])

    with Ledger.open(database, run_id="run") as ledger:
        assert asyncio.run(run(ledger)) == 1
        with sqlite3.connect(database) as other:
            assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_of_two_processes_that_paid_the_same_the_first_answer_wins(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentflow.ledger.claims.LEASE_S", 0.0)  # the first is taken for dead, but is not

    async def run(one: Ledger, other: Ledger) -> list[Any]:
        answers = [Service(lambda n=n: Answer({"n": n}, Cost())) for n in range(2)]
        return await asyncio.gather(one.ask(call(), answers[0], WORST), other.ask(call(), answers[1], WORST))

    # Two handles know as little of each other as two processes.
    with Ledger.open(database, run_id="a") as one, Ledger.open(database, run_id="b") as other:
        first, second = asyncio.run(run(one, other))
    assert first.response == second.response
    assert first.paid and second.paid
    assert ask(database, Service(), call()).response == first.response


def test_prefetched_answers_serve_and_count_as_replayed(database: str) -> None:
    for number in range(3):
        ask(database, Service(), call(number))

    async def run(ledger: Ledger) -> int:
        found = await ledger.prefetch(call(number).key for number in range(5))
        for number in range(3):
            await ledger.ask(call(number), Service(), WORST)
        return found

    with Ledger.open(database, run_id="later", mode="replay") as ledger:
        assert asyncio.run(run(ledger)) == 3
    assert usage(database, "later")["teacher"]["replayed"] == 3


def test_a_damaged_answer_is_asked_again_in_record_and_refused_in_replay(database: str) -> None:
    ask(database, Service(), call())
    with sqlite3.connect(database) as other:
        other.execute("UPDATE calls SET response_json = replace(response_json, '42', '43')")
    other.close()
    with pytest.raises(ReplayMissing, match="damaged"):
        ask(database, Service(), call(), mode="replay")
    with Ledger.open(database, run_id="r") as ledger:
        entry = ledger.get(call().key)
    assert entry is not None and entry["corrupt"] and entry["response"] is None
    again = Service()
    assert ask(database, again, call()).paid and again.sent == 1
    assert ask(database, again, call(), mode="replay").response == {"text": "42"}


def test_get_tells_request_response_hash_and_attempts(database: str) -> None:
    ask(database, Service(), call(7))
    with Ledger.open(database, run_id="r") as ledger:
        entry = ledger.get(call(7).key)
        assert ledger.get("0" * 64) is None
        assert ledger.stats()["answers"] == {"teacher": 1}
    assert entry is not None
    assert entry["request"] == {"number": 7} and entry["response"] == {"text": "42"}
    assert len(entry["response_sha256"]) == 64 and entry["attempts"][0]["tokens_out"] == 20


def test_a_closed_ledger_says_so(database: str) -> None:
    ledger = Ledger.open(database, run_id="r")
    ledger.close()
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(ledger.ask(call(), Service(), WORST))


@given(st.floats(min_value=0, max_value=1000, allow_nan=False))
def test_money_is_whole_micro_usd_and_never_rounded_down(usd: float) -> None:
    micro = Cost(usd=usd).micro_usd
    assert micro >= 0 and usd * 1_000_000 - 1e-5 <= micro <= usd * 1_000_000 + 1
