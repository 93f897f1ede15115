"""The teacher client against a scripted endpoint, through the real openai client over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agentflow.clients.endpoint import limit_key
from agentflow.clients.retry import CircuitOpen, Patience
from agentflow.clients.teacher import LocalTeacher, TeacherAnswer, TeacherClient, TeacherConfig
from agentflow.config import identity
from agentflow.errors import (
    AuthFailed,
    BudgetExceeded,
    CallTimeout,
    ConfigError,
    ConnectionFailed,
    CutAnswer,
    EmptyAnswer,
    FilteredAnswer,
    MalformedAnswer,
    MissingKeyError,
    QuotaExhausted,
    RateLimited,
    ReplayMissing,
    RequestRejected,
    ServerFailed,
    ServiceFailure,
)
from agentflow.ledger import Ledger

QUESTION = [{"role": "user", "content": "What is 6 * 7?"}]
QUICK = Patience(first_wait_s=0.0, longest_wait_s=0.05, breaker_failures=1000)
CANARY = "sk-canary-0123456789abcdef"


def body(content: Any = "Answer: 42", finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
    }


def config(**changes: Any) -> TeacherConfig:
    return TeacherConfig(**{"patience": QUICK, "usd_per_million_in": 1, "usd_per_million_out": 2, **changes})


def complete(server: Any, ledger: Ledger, settings: TeacherConfig | None = None, **arguments: Any) -> TeacherAnswer:
    async def run() -> TeacherAnswer:
        async with TeacherClient.open(settings or config(), ledger, base_url=server.url + "/v1") as teacher:
            return await teacher.complete(QUESTION, **arguments)

    return asyncio.run(run())


def test_an_answer_comes_with_reasoning_key_and_cost(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body(reasoning_content="6 * 7 = 42"))]
    first, again = complete(server, ledger), complete(server, ledger)
    assert (first.content, first.reasoning, first.finish_reason) == ("Answer: 42", "6 * 7 = 42", "stop")
    assert (first.tokens_in, first.tokens_out, first.paid, again.paid) == (1000, 500, True, False)
    assert len(server.requests) == 1 and server.requests[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert ledger.usage("run")["usd"] == pytest.approx(0.002)
    entry = ledger.get(first.ledger_key)
    assert entry is not None and entry["response"] == server.script[0].body
    assert entry["request"] == server.requests[0].json
    assert entry["provider"].startswith("local/")


def test_what_is_sent_is_what_is_configured(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body())]
    settings = config(
        model="r1", temperature=None, top_p=0.5, max_tokens=77, system="Think.", local=LocalTeacher(seed=3)
    )
    complete(server, ledger, settings, sample_index=2, response_format={"type": "json_object"})
    assert server.requests[0].json == {
        "model": "r1",
        "messages": [{"role": "system", "content": "Think."}, *QUESTION],
        "max_tokens": 77,
        "top_p": 0.5,
        "seed": 2,
        "response_format": {"type": "json_object"},
    }


def test_samples_and_editions_are_calls_of_their_own(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body())]

    async def run() -> set[str]:
        keys = set()
        for edition in "1", "2":
            async with TeacherClient.open(config(), ledger, base_url=server.url, edition=edition) as teacher:
                keys |= {(await teacher.complete(QUESTION, sample_index=index)).ledger_key for index in range(2)}
        return keys

    assert len(asyncio.run(run())) == 4 and len(server.requests) == 4


@pytest.mark.parametrize(
    ("content", "reasoning", "rest"),
    [
        ("<think>\n6*7\n</think>\n\nAnswer: 42", "6*7", "Answer: 42"),
        ("6*7\n</think>Answer: 42", "6*7", "Answer: 42"),
        ("Answer: 42 </thinking>", None, "Answer: 42 </thinking>"),
        ("a < b <think> c", None, "a < b <think> c"),
    ],
)
def test_inline_think_tags_are_split_off(
    server: Any, ledger: Ledger, reply: Any, content: str, reasoning: str | None, rest: str
) -> None:
    server.script = [reply(body(content))]
    answer = complete(server, ledger)
    assert (answer.reasoning, answer.content) == (reasoning, rest)


BAD_ANSWERS = [
    (body(finish="length"), CutAnswer, 1),
    (body(finish="content_filter"), FilteredAnswer, 1),
    (body(None, refusal="I will not"), FilteredAnswer, 1),
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


BAD_STATUS = [
    (500, {"error": {"message": "boom"}}, ServerFailed, 3),
    (503, b"<html>busy</html>", ServerFailed, 3),
    (529, {}, ServerFailed, 3),
    (429, {"error": {"message": "slow", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}, RateLimited, 3),
    (408, {}, CallTimeout, 3),
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
def test_a_status_is_classified_and_costs_nothing(
    server: Any, ledger: Ledger, reply: Any, status: int, content: Any, expected: type[Exception], attempts: int
) -> None:
    server.script = [reply(content, status=status, headers={"location": "http://127.0.0.1:9/"})]
    with pytest.raises(expected) as caught:
        complete(server, ledger, config(max_attempts=3))
    assert caught.value.status == status  # type: ignore[attr-defined]
    assert len(server.requests) == attempts
    if status >= 300:
        assert ledger.usage("run")["usd"] == 0


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


def test_no_more_requests_are_in_flight_than_configured(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(body(), delay_s=0.02)]

    async def run() -> None:
        async with TeacherClient.open(config(concurrency=4), ledger, base_url=server.url) as teacher:
            await asyncio.gather(*(teacher.complete(QUESTION, sample_index=index) for index in range(16)))

    asyncio.run(run())
    assert server.most_in_flight == 4


def test_the_budget_stops_before_the_request_and_covers_its_worst_case(server: Any, tmp_path: Path, reply: Any) -> None:
    server.script = [reply(body())]
    settings = config(max_tokens=1000)  # 1000 * 2 USD / 1M, and less than 200 prompt tokens
    with Ledger.open(str(tmp_path / "poor.db"), run_id="r", budget_usd=0.0019) as ledger:
        with pytest.raises(BudgetExceeded):
            complete(server, ledger, settings)
        assert server.requests == []
    with Ledger.open(str(tmp_path / "rich.db"), run_id="r", budget_usd=0.0023) as ledger:
        assert complete(server, ledger, settings).paid


def test_replay_needs_neither_service_nor_key(server: Any, tmp_path: Path, reply: Any, monkeypatch: Any) -> None:
    server.script = [reply(body())]
    monkeypatch.setenv("SOME_KEY", CANARY)
    settings = config(base_url=server.url, api_key_env="SOME_KEY")
    with Ledger.open(str(tmp_path / "l.db"), run_id="a") as ledger:
        complete(server, ledger, settings)
    monkeypatch.delenv("SOME_KEY")
    with Ledger.open(str(tmp_path / "l.db"), run_id="b", mode="replay") as ledger:
        assert complete(server, ledger, settings).content == "Answer: 42"
        with pytest.raises(ReplayMissing):
            complete(server, ledger, settings, sample_index=1)
    assert len(server.requests) == 1


def test_a_real_host_without_a_key_fails_at_open(server: Any, ledger: Ledger, monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("EMPTY_KEY", " ")
    for settings in (
        config(base_url="https://api.openai.com/v1"),
        config(base_url=server.url, api_key_env="EMPTY_KEY"),
    ):
        with pytest.raises(MissingKeyError, match="is not set"):
            complete(server, ledger, settings)
    assert server.requests == []


def test_a_changed_base_url_does_not_get_the_key_of_another_host(server: Any, ledger: Ledger, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with pytest.raises(MissingKeyError, match="is the key of api.openai.com and is not sent to 127.0.0.1") as caught:
        complete(server, ledger, config(base_url=server.url))
    assert server.requests == [] and CANARY not in str(caught.value)


def test_a_key_named_for_a_host_goes_there_and_nowhere_else(
    server: Any, ledger: Ledger, reply: Any, monkeypatch: Any
) -> None:
    server.script = [reply(body())]
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    complete(server, ledger, config(base_url=server.url, api_key_env="OPENAI_API_KEY"))
    complete(server, ledger)  # the local stand-in
    complete(server, ledger, config(base_url=server.url, api_key_env=""), sample_index=1)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {CANARY}", "Bearer local", "Bearer none"]
    assert "org-canary" not in json.dumps([request.headers for request in server.requests])


def test_a_redirect_takes_neither_key_nor_question_elsewhere(
    server: Any, ledger: Ledger, reply: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    server.script = [reply({}, status=307, headers={"location": server.url + "/elsewhere"})]
    with pytest.raises(RequestRejected):
        complete(server, ledger, config(base_url=server.url, api_key_env="SOME_KEY"))
    assert len(server.requests) == 1


def test_a_key_never_reaches_errors_ledger_or_logs(
    server: Any, tmp_path: Path, reply: Any, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", CANARY)
    settings = config(base_url=server.url, api_key_env="SOME_KEY", max_attempts=1)
    echo = {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": f"x{CANARY}"}}
    seen = []
    with Ledger.open(str(tmp_path / "l.db"), run_id="r") as ledger:
        for index, status in enumerate((400, 401, 429, 500)):
            server.script = [reply(echo, status=status)]
            with pytest.raises(ServiceFailure) as caught:
                complete(server, ledger, settings, sample_index=index)
            seen.append(f"{caught.value!r} {caught.value.__dict__} {caught.value.__cause__!r}")
            seen.append(str(ledger.stop_of(limit_key(settings.provider, CANARY))))
            ledger.lift_stops()
        server.script = [reply(f"<html>{CANARY}</html>".encode())]
        with pytest.raises(MalformedAnswer) as malformed:
            complete(server, ledger, settings, sample_index=8)
        seen.append(str(malformed.value))
        server.script = [reply(body(f"your key is {CANARY}"))]
        answer = complete(server, ledger, settings, sample_index=9)
        assert answer.content == "your key is [key]"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(server.requests) == 6 and all(CANARY in request.headers["authorization"] for request in server.requests)
    assert CANARY.encode() not in written
    assert CANARY not in " ".join(seen) and CANARY not in caplog.text


@pytest.mark.parametrize(
    "address", ["ftp://x", "api.openai.com", "https://", "https://u:p@x", "https://x/v1?key=1", "http://x:port"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(ledger: Ledger, server: Any, address: str) -> None:
    with pytest.raises(ConfigError, match=r"http\(s\)://HOST"):
        complete(server, ledger, config(base_url=address, api_key_env=""))


def test_a_key_written_in_place_of_a_variable_name_is_not_repeated(ledger: Ledger, server: Any) -> None:
    with pytest.raises(MissingKeyError, match="put only the name there") as caught:
        complete(server, ledger, config(base_url=server.url, api_key_env=CANARY))
    assert CANARY not in str(caught.value)


def test_a_budget_on_a_real_host_needs_prices(server: Any, tmp_path: Path) -> None:
    settings = config(base_url=server.url, api_key_env="", usd_per_million_in=None)
    with (
        Ledger.open(str(tmp_path / "l.db"), run_id="r", budget_usd=1) as ledger,
        pytest.raises(ConfigError, match="cannot hold without prices"),
    ):
        complete(server, ledger, settings)


def test_without_an_address_of_the_stand_in_opening_fails(ledger: Ledger) -> None:
    async def run() -> None:
        async with TeacherClient.open(config(), ledger):
            pytest.fail("opened")

    with pytest.raises(ConfigError, match="no local teacher runs"):
        asyncio.run(run())


def test_identity_is_what_is_asked_and_of_whom_never_where_or_how_fast(tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text("{}")
    plain = identity(TeacherConfig())
    same = TeacherConfig(
        concurrency=3, max_attempts=9, timeout_s=1, api_key_env="X", patience=QUICK, usd_per_million_in=7
    )
    assert identity(same) == plain
    assert identity(TeacherConfig(local=LocalTeacher(latency_ms=200))) == plain
    differing = [
        TeacherConfig(model="m"),
        TeacherConfig(local=LocalTeacher(wrong_rate=0.5)),
        TeacherConfig(local=LocalTeacher(known=known)),
        TeacherConfig(base_url="https://api.deepseek.com/v1"),
        TeacherConfig(base_url="http://api.deepseek.com/v1"),
    ]
    identities = [json.dumps(identity(one), sort_keys=True) for one in differing]
    assert len({json.dumps(plain, sort_keys=True), *identities}) == 6
    real = identity(TeacherConfig(base_url="https://api.deepseek.com/v1", local=LocalTeacher(wrong_rate=0.5)))
    assert real["provider"] == "https://api.deepseek.com" and real == identity(differing[3])
