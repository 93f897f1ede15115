"""The search client against a scripted endpoint, through the real tavily-python client over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentflow.clients.retry import Patience
from agentflow.clients.search import LocalSearch, SearchAnswer, SearchClient, SearchConfig
from agentflow.config import identity
from agentflow.errors import (
    AuthFailed,
    CallTimeout,
    ConfigError,
    ConnectionFailed,
    InputError,
    MalformedAnswer,
    MissingKeyError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    ServiceFailure,
)
from agentflow.ledger import Ledger
from agentflow.records import ToolCall
from agentflow.tools.contract import ToolBox
from agentflow.tools.web_search import WebSearch, WebSearchConfig

QUICK = Patience(first_wait_s=0.0, longest_wait_s=0.05, breaker_failures=1000)
CANARY = "tvly-canary-0123456789abcdef"
HIT = {"title": "Orsk", "url": "https://example.org/orsk", "content": "Havel Orsk was born in Ruve.", "score": 0.9}
FOUND = {"query": "q", "results": [{**HIT, "raw_content": None}], "response_time": 0.1}


def config(**changes: Any) -> SearchConfig:
    return SearchConfig(**{"patience": QUICK, "usd_per_credit": 0.008, **changes})


def search(server: Any, ledger: Ledger, settings: SearchConfig | None = None, query: str = "Orsk?") -> SearchAnswer:
    async def run() -> SearchAnswer:
        async with SearchClient.open(settings or config(), ledger, base_url=server.url) as client:
            return await client.search(query)

    return asyncio.run(run())


def test_hits_come_with_key_and_day_and_are_paid_once(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(FOUND)]
    first, again = search(server, ledger), search(server, ledger)
    assert first.results == again.results == [HIT]
    assert (first.paid, again.paid, len(server.requests)) == (True, False, 1)
    assert first.as_of == again.as_of and datetime.fromisoformat(first.as_of).tzinfo == UTC
    used = ledger.usage("run")
    assert used["search"] == {"paid": 1, "replayed": 1, "failed": 0, "lost": 0}
    assert (used["credits"], used["usd"]) == (1, 0.008)


def test_what_is_sent_is_what_is_configured(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(FOUND)]
    wanted = {"max_results": 3, "topic": "news", "days": 7}
    settings = config(depth="advanced", include_domains=("a.org",), exclude_domains=("b.org",), **wanted)
    search(server, ledger, settings)
    assert server.requests[0].line == "POST /search HTTP/1.1"
    sent = server.requests[0].json
    assert {name: sent[name] for name in wanted} == wanted
    assert (sent["query"], sent["search_depth"]) == ("Orsk?", "advanced")
    assert (sent["include_domains"], sent["exclude_domains"]) == (["a.org"], ["b.org"])
    assert ledger.usage("run")["credits"] == 2


def test_no_hit_is_an_answer_too(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"results": []})]
    assert search(server, ledger).results == []
    assert not search(server, ledger).paid


BAD_STATUS = [
    (401, {"detail": {"error": "Unauthorized: missing or invalid API key."}}, AuthFailed, 1),
    (403, {"detail": {"error": "forbidden"}}, AuthFailed, 1),
    (432, {"detail": {"error": "This request exceeds your plan's set usage limit."}}, QuotaExhausted, 1),
    (433, {"detail": {"error": "This request exceeds the pay-as-you-go limit."}}, QuotaExhausted, 1),
    (429, {"detail": {"error": "Your request has been blocked due to excessive requests."}}, RateLimited, 2),
    (400, {"detail": {"error": "Query is too long. Max query length is 400 characters."}}, RequestRejected, 1),
    (422, {"detail": [{"msg": "bad"}]}, RequestRejected, 1),
    (307, {}, RequestRejected, 1),
    (500, b"<html>", ServerFailed, 2),
    (502, {}, ServerFailed, 2),
    (503, {}, ServerFailed, 2),
    (408, {}, CallTimeout, 2),
    (504, b"<html>", ServerFailed, 2),
    (522, b"", ServerFailed, 2),
    (524, b"", ServerFailed, 2),
]
PERHAPS_BILLED = (408, 504, 522, 524)
# Somebody gave up waiting; behind it the search may have been done.


@pytest.mark.parametrize(("status", "content", "expected", "attempts"), BAD_STATUS)
def test_a_status_is_classified_and_costs_nothing_unless_the_work_may_have_been_done(
    server: Any, ledger: Ledger, reply: Any, status: int, content: Any, expected: type[ServiceFailure], attempts: int
) -> None:
    server.script = [reply(content, status=status, headers={"location": "/elsewhere"})]
    with pytest.raises(expected) as caught:
        search(server, ledger, config(max_attempts=2))
    assert caught.value.status == status and len(server.requests) == attempts
    assert caught.value.stops_run == (expected in (AuthFailed, QuotaExhausted))
    used = ledger.usage("run")
    assert used["search"]["failed"] == attempts and used["usd"] == used["usd_assumed"]
    assert used["credits"] == (attempts if status in PERHAPS_BILLED else 0)


def test_the_service_s_words_are_in_the_message(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"detail": {"error": "Query is too long."}}, status=400)]
    with pytest.raises(RequestRejected, match=r"search answered 400: Query is too long\."):
        search(server, ledger)


BAD_BODIES = [
    b"",
    b"<html>login</html>",
    json.dumps(FOUND).encode()[:-5],
    b"[" * 100_000,
    [],
    {},
    {"results": None},
    {"results": ["text"]},
    {"results": [{**HIT, "content": None}]},
    {"results": [{"title": "only"}]},
    {"results": [{**HIT, "score": "high"}]},
    b'{"results": [{"title": "", "url": "", "content": "", "score": NaN}]}',
]


@pytest.mark.parametrize("content", BAD_BODIES)
def test_a_200_of_another_shape_is_typed_and_never_stored(
    server: Any, ledger: Ledger, reply: Any, content: Any
) -> None:
    server.script = [reply(content)]
    with pytest.raises(MalformedAnswer):
        search(server, ledger, config(max_attempts=2))
    assert len(server.requests) == 2 and ledger.stats()["answers"] == {}
    assert ledger.usage("run")["usd_assumed"] == pytest.approx(0.016)


@pytest.mark.parametrize("cut_at", [0, 30, 150])
def test_a_dropped_connection_is_typed_and_repeated(server: Any, ledger: Ledger, reply: Any, cut_at: int) -> None:
    server.script = [reply({"results": [{**HIT, "content": "x" * 500}]}, cut_at=cut_at), reply(FOUND)]
    assert search(server, ledger).paid
    assert ledger.stats()["attempts"] == {"connection": 1, "ok": 1}
    assert ledger.usage("run")["usd_assumed"] == 0.008


def test_a_refused_connection_costs_nothing(server: Any, ledger: Ledger) -> None:
    server.url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionFailed):
        search(server, ledger, config(max_attempts=1))
    assert ledger.usage("run")["usd"] == 0


def test_an_answer_that_takes_too_long_is_a_timeout(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(FOUND, delay_s=5)]
    with pytest.raises(CallTimeout):
        search(server, ledger, config(max_attempts=1, timeout_s=0.2))


def test_a_huge_body_is_refused_before_it_fills_the_memory(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"results": [{**HIT, "content": "x" * 20_000_000}]})]
    with pytest.raises(MalformedAnswer, match="larger than"):
        search(server, ledger, config(max_attempts=1))


def test_retry_after_is_honoured_though_tavily_python_drops_it(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({}, status=429, headers={"retry-after": "0.3"}), reply(FOUND)]
    search(server, ledger, config(patience=QUICK.model_copy(update={"longest_wait_s": 5.0})))
    assert server.requests[1].at - server.requests[0].at >= 0.3


def test_used_up_credits_stop_all_calls_of_the_client_at_once(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply({"detail": {"error": "limit"}}, status=432)]

    async def run() -> list[Any]:
        async with SearchClient.open(config(concurrency=1), ledger, base_url=server.url) as client:
            return await asyncio.gather(*(client.search(f"q{n}") for n in range(10)), return_exceptions=True)

    failures = asyncio.run(run())
    assert len(server.requests) == 1 and all(isinstance(failure, QuotaExhausted) for failure in failures)


def test_without_a_key_a_real_host_is_refused_at_open_and_never_asked_keyless(
    server: Any, ledger: Ledger, monkeypatch: Any
) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    for settings in (
        config(base_url="https://api.tavily.com"),
        config(base_url=server.url, api_key_env=""),
        config(base_url=server.url, api_key_env="NOT_SET_ANYWHERE"),
    ):
        with pytest.raises(MissingKeyError):
            search(server, ledger, settings)
    assert server.requests == []


def test_a_changed_base_url_does_not_get_tavily_s_key(
    server: Any, ledger: Ledger, reply: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TAVILY_API_KEY", CANARY)
    with pytest.raises(MissingKeyError, match=r"api\.tavily\.com and is not sent to 127\.0\.0\.1"):
        search(server, ledger, config(base_url=server.url))
    server.script = [reply(FOUND)]
    search(server, ledger)
    search(server, ledger, config(base_url=server.url, api_key_env="TAVILY_API_KEY"))
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer local", f"Bearer {CANARY}"]


def test_a_key_never_reaches_errors_ledger_or_logs(
    server: Any, tmp_path: Path, reply: Any, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", CANARY)
    settings, seen = config(base_url=server.url, api_key_env="SOME_KEY", max_attempts=1), []
    with Ledger.open(str(tmp_path / "l.db"), run_id="r") as ledger:
        for status in (400, 401, 432, 500):
            server.script = [reply({"detail": {"error": f"bad key {CANARY}"}}, status=status)]
            with pytest.raises(ServiceFailure) as caught:
                search(server, ledger, settings)
            seen.append(f"{caught.value!r} {caught.value.__dict__} {caught.value.__cause__!r}")
            ledger.stops.lift()
        server.script = [reply(f"<html>{CANARY}</html>".encode())]
        with pytest.raises(MalformedAnswer) as malformed:
            search(server, ledger, settings)
        seen.append(str(malformed.value))
        server.script = [reply({"results": [{**HIT, "content": f"key={CANARY}"}]})]
        assert search(server, ledger, settings).results[0]["content"] == "key=[key]"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(server.requests) == 6
    assert CANARY.encode() not in written
    assert CANARY not in " ".join(seen) and CANARY not in caplog.text


def test_a_query_that_utf8_cannot_carry_ends_typed(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(FOUND)]
    answer = search(server, ledger, query="odd \ud800")
    assert answer.results == [HIT] and server.requests[0].json["query"] == "odd \ud800"


def test_identity_holds_the_corpus_by_content_and_no_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("{}")
    other.write_text("{}")
    folder = tmp_path / "folder"
    folder.mkdir()

    def of(corpus: Path | None) -> Any:
        return identity(SearchConfig(local=LocalSearch(corpus=corpus)))

    assert of(one) == of(other) != of(None)
    with pytest.raises(InputError, match="no \\*.jsonl"):
        of(folder)
    (folder / "a.jsonl").write_text("{}")
    before = of(folder)
    (folder / "a.jsonl").write_text("{ }")
    assert of(folder) != before
    assert identity(SearchConfig(concurrency=1, usd_per_credit=0, timeout_s=3)) == of(None)
    assert identity(SearchConfig(days=3)) != of(None)
    assert identity(SearchConfig(base_url="https://api.tavily.com"))["provider"] == "https://api.tavily.com"


def test_without_an_address_of_the_stand_in_opening_fails(ledger: Ledger) -> None:
    async def run() -> None:
        async with SearchClient.open(config(), ledger):
            pytest.fail("opened")

    with pytest.raises(ConfigError, match="no local search runs"):
        asyncio.run(run())


@pytest.mark.parametrize("pace", [{"concurrency": 1}, {"requests_per_minute": 120}])
def test_a_search_that_waits_for_its_turn_does_not_time_out(
    server: Any, ledger: Ledger, reply: Any, pace: dict[str, int]
) -> None:
    server.script = [reply(FOUND, delay_s=0.15)]

    async def run() -> list[Any]:
        async with SearchClient.open(config(**pace), ledger, base_url=server.url) as client:
            box = ToolBox([WebSearch(client.search, WebSearchConfig(timeout_s=0.6))])
            # Twice each: an equal query waits for the first one's answer.
            calls = [ToolCall("Search", {"query": f"town {number // 2}"}) for number in range(12)]
            return await asyncio.gather(*map(box.run, calls), return_exceptions=True)

    found = asyncio.run(run())
    assert [result for result in found if isinstance(result, Exception)] == [] and len(server.requests) == 6


def test_a_configuration_that_crossed_a_process_border_keeps_its_prices_and_owns_no_key_it_did_not_name(
    server: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed = SearchConfig.model_validate_json(SearchConfig().model_dump_json())
    assert crossed.price == 0.0, "the stand-in costs nothing"
    assert SearchConfig(base_url="https://api.tavily.com").price == 0.008
    monkeypatch.setenv("TAVILY_API_KEY", CANARY)
    elsewhere = SearchConfig.model_validate_json(SearchConfig(base_url=server.url).model_dump_json())
    with pytest.raises(MissingKeyError, match="is not sent to"):
        search(server, ledger, elsewhere)
    assert server.requests == []
