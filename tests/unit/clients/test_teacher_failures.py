"""The teacher client against an endpoint that fails: typed, counted, repeated within bounds, stored only where asking
again would end the same.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from scripted_teacher import QUESTION, QUICK, body, complete, config

from agentflow.clients.retry import CircuitOpen, Patience
from agentflow.clients.teacher import TeacherClient
from agentflow.errors import (
    AuthFailed,
    CallTimeout,
    ConnectionFailed,
    CutAnswer,
    EmptyAnswer,
    FilteredAnswer,
    MalformedAnswer,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
)
from agentflow.ledger import Ledger

FINAL_ANSWERS = [
    (body(finish="length"), CutAnswer),
    (body(None, finish="length", reasoning_content="3+4 ="), CutAnswer),
    (body(finish="content_filter"), FilteredAnswer),
    (body(None, refusal="I will not"), FilteredAnswer),
]


@pytest.mark.parametrize(("final", "expected"), FINAL_ANSWERS)
def test_a_cut_or_filtered_answer_is_paid_once_and_fails_each_time_it_is_read(
    server: Any, ledger: Ledger, reply: Any, final: Any, expected: type[Exception]
) -> None:
    server.script = [reply(final)]
    for asked in range(3):
        with pytest.raises(expected, match="kept: asking again.*the model or the edition") as caught:
            complete(server, ledger, config(max_attempts=3))
        assert caught.value.row_fault  # type: ignore[attr-defined]
        assert len(server.requests) == 1 and ledger.stats()["answers"] == {"teacher": 1}
        assert ledger.usage("run")["teacher"] == {"paid": 1, "replayed": asked, "failed": 0, "lost": 0}
    assert ledger.usage("run")["usd"] == pytest.approx((1000 * 1 + 500 * 2) / 1e6), "as the service counted it"
    server.script = [reply(body())]
    assert complete(server, ledger, config(max_tokens=4096)).paid, "another max_tokens is another call"


def test_a_cut_answer_is_read_as_cut_from_a_replay_too(server: Any, ledger: Ledger, reply: Any, tmp_path: Any) -> None:
    server.script = [reply(body(finish="length"))]
    with pytest.raises(CutAnswer):
        complete(server, ledger)
    with Ledger.open(str(tmp_path / "ledger.db"), run_id="again", mode="replay_or_fail") as replaying:
        with pytest.raises(CutAnswer):
            complete(server, replaying)
        assert replaying.usage("again")["teacher"] == {"paid": 0, "replayed": 1, "failed": 0, "lost": 0}


BAD_ANSWERS = [
    (body(finish="insufficient_system_resource"), ServerFailed, 2),
    (body("Answer: 4", finish="error"), ServerFailed, 2),
    (body(""), EmptyAnswer, 2),
    (body(None), EmptyAnswer, 2),
    (body("  \n", reasoning_content="thought"), EmptyAnswer, 2),
    (body("<think>never ends"), MalformedAnswer, 2),
    (body(["part"]), MalformedAnswer, 2),
    ({**body(), "choices": []}, MalformedAnswer, 2),
    ({**body(), "choices": None}, MalformedAnswer, 2),
    ({**body(), "choices": [{"finish_reason": "stop"}]}, MalformedAnswer, 2),
    ({"error": {"message": "overloaded"}}, MalformedAnswer, 2),
    ([], MalformedAnswer, 2),
    (b"", MalformedAnswer, 2),
    (b"<html><body>bad gateway</body></html>", MalformedAnswer, 2),
    (json.dumps(body()).encode()[:-20], MalformedAnswer, 2),
    (b"\xff\xfe\x00", MalformedAnswer, 2),
    (b"[" * 100_000, MalformedAnswer, 2),
    (b'{"choices": NaN}', MalformedAnswer, 2),
]


@pytest.mark.parametrize(("bad", "expected", "attempts"), BAD_ANSWERS)
def test_a_200_without_a_usable_answer_is_typed_metered_and_never_stored(
    server: Any, ledger: Ledger, reply: Any, bad: Any, expected: type[Exception], attempts: int
) -> None:
    server.script = [reply(bad)]
    with pytest.raises(expected):
        complete(server, ledger, config(max_attempts=2))
    assert len(server.requests) == attempts
    assert ledger.stats()["answers"] == {}
    used = ledger.usage("run")
    assert used["teacher"]["failed"] == attempts
    assert used["usd"] > 0, "an answered request may have been billed"


PERHAPS_BILLED = (408, 504, 522, 524)
# Somebody gave up waiting; behind it the work may have been done.
BAD_STATUS = [
    (500, {"error": {"message": "boom"}}, ServerFailed, 3),
    (503, b"<html>busy</html>", ServerFailed, 3),
    (529, {}, ServerFailed, 3),
    (429, {"error": {"message": "slow", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}, RateLimited, 3),
    (502, b"<html>bad gateway</html>", ServerFailed, 3),
    (408, {}, CallTimeout, 3),
    (504, b"<html>gateway timeout</html>", ServerFailed, 3),
    (522, b"error code: 522", ServerFailed, 3),
    (524, b"error code: 524", ServerFailed, 3),
    (
        429,
        {"error": {"message": "empty", "type": "insufficient_quota", "code": "insufficient_quota"}},
        QuotaExhausted,
        1,
    ),
    (402, {"error": {"message": "Insufficient Balance"}}, QuotaExhausted, 1),
    (401, {"error": {"message": "bad key", "code": "invalid_api_key"}}, AuthFailed, 1),
    (403, {}, AuthFailed, 1),
    (400, {"error": {"message": "context too long"}}, RequestRejected, 1),
    (404, {"error": {"message": "no such model"}}, RequestRejected, 1),
    (302, {}, RequestRejected, 1),
    (204, b"", MalformedAnswer, 3),
]


@pytest.mark.parametrize(("status", "content", "expected", "attempts"), BAD_STATUS)
def test_a_status_is_classified_and_costs_nothing_unless_the_work_may_have_been_done(
    server: Any, ledger: Ledger, reply: Any, status: int, content: Any, expected: type[Exception], attempts: int
) -> None:
    server.script = [reply(content, status=status, headers={"location": "http://127.0.0.1:9/"})]
    with pytest.raises(expected) as caught:
        complete(server, ledger, config(max_attempts=3))
    assert caught.value.status == status  # type: ignore[attr-defined]
    assert len(server.requests) == attempts
    used = ledger.usage("run")
    if status in PERHAPS_BILLED or status < 300:
        assert used["usd"] == used["usd_assumed"] >= attempts * config().max_tokens * 2 / 1e6, "the worst case"
    else:
        assert used["usd"] == 0


def test_attempts_are_repeated_until_one_succeeds_and_each_is_kept(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({}, status=503), reply(b"", cut_at=0), reply(body(None)), reply(body())]
    answer = complete(server, ledger)
    entry = ledger.get(answer.ledger_key)
    assert entry is not None
    assert sorted(attempt["status"] for attempt in entry["attempts"]) == ["connection", "empty", "ok", "server_error"]


@pytest.mark.parametrize("cut_at", [0, 5, 40, 200])
def test_a_dropped_connection_is_typed_and_counted_at_its_worst(
    server: Any, ledger: Ledger, reply: Any, cut_at: int
) -> None:
    server.script = [reply(body("x" * 1000), cut_at=cut_at)]
    with pytest.raises(ConnectionFailed):
        complete(server, ledger, config(max_attempts=1))
    used = ledger.usage("run")
    assert used["usd_assumed"] == used["usd"] > 0


def test_a_refused_connection_costs_nothing(server: Any, ledger: Ledger) -> None:
    server.url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionFailed, match="127.0.0.1"):
        complete(server, ledger, config(max_attempts=2))
    assert ledger.usage("run")["usd"] == 0 and ledger.usage("run")["teacher"]["failed"] == 2


def test_a_host_without_an_address_is_a_connection_failure(server: Any, ledger: Ledger) -> None:
    server.url = "http://nowhere.invalid"
    with pytest.raises(ConnectionFailed):
        complete(server, ledger, config(max_attempts=1))


def test_an_answer_that_takes_too_long_is_a_timeout(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body(), delay_s=5)]
    with pytest.raises(CallTimeout):
        complete(server, ledger, config(max_attempts=1, timeout_s=0.2))
    assert ledger.usage("run")["usd_assumed"] > 0


def test_a_huge_body_is_refused_before_it_fills_the_memory(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body("x" * 50_000_000))]
    with pytest.raises(MalformedAnswer, match="larger than"):
        complete(server, ledger, config(max_attempts=1))


def test_retry_after_is_honoured_and_shared_by_all_calls(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({}, status=429, headers={"retry-after": "0.4"}), reply(body())]
    settings = config(patience=QUICK.model_copy(update={"longest_wait_s": 5.0}), concurrency=1)

    async def run() -> None:
        async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
            await asyncio.gather(*(teacher.complete(QUESTION, sample_index=index) for index in range(3)))

    asyncio.run(run())
    assert len(server.requests) == 4
    assert min(request.at for request in server.requests[1:]) - server.requests[0].at >= 0.4


def test_retry_after_of_a_day_is_capped(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({}, status=429, headers={"retry-after": "86400"}), reply(body())]
    assert complete(server, ledger).paid


def test_a_wrong_key_stops_all_calls_of_the_client_at_once(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"error": {"message": "bad key"}}, status=401)]

    async def run() -> list[Any]:
        async with TeacherClient.open(config(concurrency=1), ledger, base_url=server.url) as teacher:
            calls = (teacher.complete(QUESTION, sample_index=index) for index in range(10))
            return await asyncio.gather(*calls, return_exceptions=True)

    failures = asyncio.run(run())
    assert len(server.requests) == 1
    assert all(isinstance(failure, AuthFailed) and failure.stops_run for failure in failures)


def test_a_dead_service_opens_the_circuit_and_bounds_the_requests(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({}, status=503)]
    patience = Patience(first_wait_s=0, longest_wait_s=0, breaker_failures=5, breaker_probes=2)

    async def run() -> list[Any]:
        settings = config(patience=patience, max_attempts=50, concurrency=2)
        async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
            calls = (teacher.complete(QUESTION, sample_index=index) for index in range(20))
            return await asyncio.gather(*calls, return_exceptions=True)

    failures = asyncio.run(run())
    assert all(isinstance(failure, CircuitOpen) and failure.stops_run for failure in failures)
    assert len(server.requests) <= 5 + 3 + 2
