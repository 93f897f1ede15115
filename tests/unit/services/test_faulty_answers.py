"""Every kind of fault as the real clients see it, and the service's own counts of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import tavily
from tavily.errors import ForbiddenError, UsageLimitExceededError

from agentflow.errors import UserError
from agentflow.services.faults import Rule
from agentflow.services.server import LocalService


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, LocalService]]:
    with LocalService("teacher") as teacher, LocalService("search") as search:
        yield {"teacher": teacher, "search": search}


@pytest.fixture
def teacher(services: dict[str, LocalService]) -> LocalService:
    services["teacher"].reset()
    return services["teacher"]


@pytest.fixture
def search(services: dict[str, LocalService]) -> LocalService:
    services["search"].reset()
    return services["search"]


def ask(service: LocalService, question: str = "What is love?", **options: Any) -> Any:
    async def run() -> Any:
        # No certificates for plain HTTP: loading them would be most of a test's time.
        http_client = openai.DefaultAsyncHttpxClient(verify=False)
        settings = {"base_url": service.base_url, "api_key": "local", "max_retries": 0, **options}
        async with openai.AsyncOpenAI(**settings, http_client=http_client) as client:
            return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}])

    return asyncio.run(run())


def look_up(service: LocalService, query: str = "Orsk") -> Any:
    async def run() -> Any:
        async with tavily.AsyncTavilyClient(api_key="local", api_base_url=service.base_url) as client:
            return await client.search(query)

    return asyncio.run(run())


def post(service: LocalService, question: str = "What is love?") -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": question}]}
    return httpx.post(f"{service.base_url}/chat/completions", json=body, trust_env=False, verify=False)


def test_a_429_carries_retry_after_and_the_next_call_works(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "status", "status": 429, "retry_after_s": 7, "first": 1}])
    with pytest.raises(openai.RateLimitError) as caught:
        ask(teacher)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.type == "rate_limit_error"
    assert ask(teacher).choices[0].message.content == "Answer: unknown"
    stats = teacher.stats()
    assert (stats["requests"], stats["paid"]) == (2, 1)
    assert stats["by_status"] == {"429": 1, "200": 1}


def test_an_exhausted_quota_is_told_by_its_code(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "status", "status": 429, "code": "insufficient_quota", "message": "No credit."}])
    with pytest.raises(openai.RateLimitError, match="No credit") as caught:
        ask(teacher)
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (401, openai.AuthenticationError), (500, openai.InternalServerError)],
)
def test_statuses_are_the_clients_own_errors(
    teacher: LocalService, status: int, error: type[openai.APIStatusError]
) -> None:
    teacher.set_faults([{"kind": "status", "status": status}])
    with pytest.raises(error, match="scripted fault"):
        ask(teacher)


def test_an_html_error_page_is_no_json(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "status", "status": 502, "html": True}])
    with pytest.raises(openai.InternalServerError) as caught:
        ask(teacher)
    assert caught.value.response.headers["content-type"].startswith("text/html")
    assert "<html>" in caught.value.response.text


def test_a_body_of_ones_own_arrives_as_it_is(teacher: LocalService) -> None:
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}
    teacher.set_faults([{"kind": "status", "status": 200, "body": answer}])
    assert ask(teacher).choices == []
    teacher.set_faults([{"kind": "status", "status": 200, "body": '{"choices": [{"mess'}])
    with pytest.raises((json.JSONDecodeError, openai.APIError)):
        ask(teacher)


@pytest.mark.parametrize("kind", ["drop_before", "drop_half", "drop_after"])
def test_dropped_connections_are_connection_errors(teacher: LocalService, kind: str) -> None:
    teacher.set_faults([{"kind": kind, "first": 1}])
    with pytest.raises(openai.APIConnectionError):
        ask(teacher)
    entry = teacher.history()[0]
    assert (entry["status"], entry["fault"], entry["rule"]) == ("dropped", kind, 0)
    assert entry["paid"] is (kind != "drop_before")
    assert ask(teacher).choices[0].message.content == "Answer: unknown"
    assert teacher.stats()["by_status"] == {"dropped": 1, "200": 1}


def test_a_lost_answer_is_asked_again_by_the_client_and_paid_twice(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "drop_after", "first": 1}])
    assert ask(teacher, max_retries=1).choices[0].message.content == "Answer: unknown"
    assert teacher.stats()["paid"] == 2
    first, second = teacher.history()
    assert first["sha256"] == second["sha256"] and first["subject"] == "What is love?"


@pytest.mark.parametrize("kind", ["empty", "cut_json"])
def test_empty_and_cut_answers_are_whole_http_with_a_broken_body(teacher: LocalService, kind: str) -> None:
    whole = post(teacher).content
    teacher.set_faults([{"kind": kind, "fraction": 0.3}])
    answer = post(teacher)
    assert answer.status_code == 200
    assert len(answer.content) == (0 if kind == "empty" else int(len(whole) * 0.3))
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert teacher.stats()["paid"] == 2


def test_a_half_sent_body_ends_where_the_script_says(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "drop_half", "fraction": 0.0}])
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete|without sending"):
        post(teacher)


def test_a_huge_body_has_the_scripted_size(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "huge", "size_bytes": 3_000_000}])
    answer = post(teacher)
    assert len(answer.content) == 3_000_000
    assert answer.json()["choices"][0]["message"]["content"] == "Answer: unknown"


def test_a_slow_answer_is_the_clients_timeout(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "delay", "delay_s": 5, "first": 1}])
    with pytest.raises(openai.APITimeoutError):
        ask(teacher, timeout=0.2)
    teacher.set_faults([{"kind": "delay", "delay_s": 0.01}])
    assert ask(teacher).choices[0].message.content == "Answer: unknown"


def test_one_question_fails_for_ever_and_the_others_do_not(teacher: LocalService) -> None:
    teacher.set_faults([Rule(kind="status", status=500, contains='the "bad" one')])
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(teacher, 'Who is the "bad" one?')
        assert ask(teacher).choices[0].message.content == "Answer: unknown"
    assert teacher.stats()["by_fault"] == {"status": 2}


@pytest.mark.parametrize(
    ("status", "error"), [(429, UsageLimitExceededError), (432, ForbiddenError), (433, ForbiddenError)]
)
def test_search_limits_are_the_tavily_clients_own_errors(
    search: LocalService, status: int, error: type[Exception]
) -> None:
    search.set_faults([{"kind": "status", "status": status, "message": "plan limit"}])
    with pytest.raises(error, match="plan limit"):
        look_up(search)
    assert search.stats()["paid"] == 0


def test_search_answers_can_be_dropped_and_cut(search: LocalService) -> None:
    search.set_faults([{"kind": "drop_after", "first": 1}, {"kind": "cut_json", "first": 1}])
    with pytest.raises(httpx.RemoteProtocolError):
        look_up(search)
    with pytest.raises(json.JSONDecodeError):
        look_up(search)
    assert look_up(search)["query"] == "Orsk"
    assert (search.stats()["paid"], search.stats()["requests"]) == (3, 3)


def test_faults_can_be_read_back_and_cleared(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "status", "every": 2}])
    ask(teacher)
    with pytest.raises(openai.InternalServerError):
        ask(teacher)
    assert httpx.get(f"{teacher.url}/faults", trust_env=False, verify=False).json() == [
        {"rule": {"kind": "status", "every": 2}, "fired": 1}
    ]
    teacher.clear_faults()
    ask(teacher)
    ask(teacher)


def test_a_wrong_rule_is_refused_and_the_old_ones_stay(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "drop_before"}])
    with pytest.raises(UserError, match="frist"):
        teacher.set_faults([{"kind": "status", "frist": 1}])
    with pytest.raises(openai.APIConnectionError):
        ask(teacher)


def test_history_keeps_no_key_but_tells_them_apart(teacher: LocalService) -> None:
    ask(teacher, api_key="canary-key-1")
    ask(teacher, api_key="canary-key-2")
    history = teacher.history()
    assert "canary" not in json.dumps(history)
    assert len({entry["key_sha256"] for entry in history}) == 2


def test_control_paths_are_not_counted(teacher: LocalService) -> None:
    teacher.set_faults([{"kind": "status"}])
    teacher.history()
    assert teacher.stats()["requests"] == 0
    assert httpx.put(f"{teacher.url}/stats", trust_env=False, verify=False).status_code == 405
