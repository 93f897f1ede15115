"""The teacher client against a scripted endpoint, through the real openai client over HTTP: what is asked and got."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_teacher import QUESTION, QUICK, body, complete, config

from agentflow.clients.teacher import LocalTeacher, TeacherClient, TeacherConfig
from agentflow.config import identity
from agentflow.errors import (
    BudgetExceeded,
    ConfigError,
)
from agentflow.ledger import Ledger


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
