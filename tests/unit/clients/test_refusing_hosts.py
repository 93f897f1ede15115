"""Hosts that refuse what is asked: a kind of structured answer, one request, or every one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentflow.clients.retry import CircuitOpen, Patience
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.errors import MalformedAnswer, RequestRejected
from agentflow.ledger import Ledger

QUESTION = [{"role": "user", "content": "What is 6 * 7?"}]
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "lookups", "schema": {}}}


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, SCHEMA),
        ({"base_url": "https://api.openai.com/v1"}, SCHEMA),
        ({"base_url": "https://api.deepseek.com/v1"}, {"type": "json_object"}),
        ({"base_url": "https://api.deepseek.com/v1", "structured": "json_schema"}, SCHEMA),
        ({"structured": "json_object"}, {"type": "json_object"}),
        ({"structured": "none"}, None),
    ],
)
def test_a_host_that_refuses_schemas_is_asked_for_any_json_object(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sent: Any
) -> None:
    monkeypatch.setenv("KEY", "k")

    async def request() -> dict[str, Any]:
        with_key = TeacherConfig(api_key_env="KEY", **settings)
        async with TeacherClient.open(with_key, ledger, base_url="http://127.0.0.1:9/v1") as teacher:
            return teacher.call(QUESTION, response_format=SCHEMA).request

    assert asyncio.run(request()).get("response_format") == sent


def test_a_host_that_refuses_every_request_ends_the_run_instead_of_every_row(
    server: Any, ledger: Ledger, reply: Any
) -> None:
    server.script = [reply({"error": {"message": "Model Not Exist"}}, status=400)]
    settings = TeacherConfig(concurrency=4, patience=Patience(breaker_failures=6))

    async def run() -> list[Any]:
        async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
            calls = (teacher.complete(QUESTION, sample_index=number) for number in range(40))
            return await asyncio.gather(*calls, return_exceptions=True)

    ended = asyncio.run(run())
    assert isinstance(ended[-1], CircuitOpen) and ended[-1].stops_run and "Model Not Exist" in str(ended[-1])
    assert len(server.requests) <= 6 + 4


def test_a_question_that_never_gets_a_usable_answer_becomes_its_rows_fault_after_some_retries(
    server: Any, ledger: Ledger, reply: Any
) -> None:
    server.script = [reply({"choices": []})]
    patience = Patience(first_wait_s=0.0, unusable_answers=5)
    settings = TeacherConfig(max_attempts=2, patience=patience)

    async def run() -> bool:
        async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
            with pytest.raises(MalformedAnswer) as caught:
                await teacher.complete(QUESTION)
            return caught.value.row_fault

    assert [asyncio.run(run()) for _ in range(3)] == [False, False, True] and len(server.requests) == 6


def test_after_an_answer_a_refused_request_is_its_rows_own_fault(server: Any, ledger: Ledger, reply: Any) -> None:
    server.script = [reply(ANSWER), reply({"error": {"message": "no"}}, status=400)]
    settings = TeacherConfig(concurrency=1, patience=Patience(breaker_failures=2))

    async def run() -> list[Any]:
        async with TeacherClient.open(settings, ledger, base_url=server.url) as teacher:
            calls = (teacher.complete(QUESTION, sample_index=number) for number in range(8))
            return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(one) for one in asyncio.run(run())[1:]] == [RequestRejected] * 7
