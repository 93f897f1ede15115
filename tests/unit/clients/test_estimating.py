"""What calls are said to cost before they are made, and what they have cost while they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentflow.clients.estimate import estimate_search, estimate_teacher
from agentflow.clients.search import SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.ledger import Ledger
from agentflow.ledger.meters import MeanTokens

PRICED = TeacherConfig(usd_per_million_in=1, usd_per_million_out=2, max_tokens=1000)
USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
BODY = {"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}], "usage": USAGE}


def test_without_earlier_answers_half_of_max_tokens_is_assumed_and_said() -> None:
    one = estimate_teacher("traces", PRICED, calls=10, most_calls=20, prompt_bytes=400, seen=None)
    assert one.tokens == 10 * (100 + 500) and one.usd == pytest.approx(10 * (100 + 2 * 500) / 1e6)
    assert one.most_usd == pytest.approx(20 * (400 + 32 + 2 * 1000) / 1e6)
    assert "no earlier answers" in one.line() and "10 (at most 20) calls" in one.line()


def test_earlier_answers_of_the_model_say_what_to_expect() -> None:
    seen = MeanTokens(7, 120.0, 80.0)
    one = estimate_teacher("traces", PRICED, calls=10, most_calls=10, prompt_bytes=400, seen=seen)
    assert one.tokens == 2000 and "mean of 7 earlier answers" in one.line()


def test_a_real_host_without_prices_has_no_price() -> None:
    config = TeacherConfig(base_url="https://api.deepseek.com", usd_per_million_in=1)
    one = estimate_teacher("traces", config, calls=1, most_calls=1, prompt_bytes=4, seen=None)
    assert one.usd is None and "price unknown: set teacher.usd_per_million_in" in one.line()


def test_searches_cost_credits() -> None:
    config = SearchConfig(base_url="https://api.tavily.com", depth="advanced", usd_per_credit=0.008)
    one = estimate_search("tool_insertion", config, calls=10, most_calls=40, basis="assumed")
    assert (one.credits, one.usd, one.most_usd) == (20.0, pytest.approx(0.16), pytest.approx(0.64))


def test_the_ledger_tells_the_mean_and_meters_a_run(server: Any, tmp_path: Path, reply: Any) -> None:
    server.script = [reply(BODY), reply({}, status=500), reply(BODY)]

    async def ask(ledger: Ledger) -> None:
        async with TeacherClient.open(PRICED, ledger, base_url=server.url) as teacher:
            for sample in (0, 0, 1):
                await teacher.complete([{"role": "user", "content": "6*7"}], sample_index=sample)

    with Ledger.open(str(tmp_path / "ledger.db"), run_id="r", budget_usd=1) as ledger:
        assert ledger.mean_tokens(PRICED.provider, PRICED.model).answers == 0
        asyncio.run(ask(ledger))
        assert ledger.mean_tokens(PRICED.provider, PRICED.model) == MeanTokens(2, 100.0, 50.0)
        assert ledger.mean_tokens(PRICED.provider, "another").answers == 0
        assert ledger.meter() == (
            "calls 2 paid, 1 replayed, 1 failed, 300 tokens, 0.0004 USD (budget 0.0004 of 1.0000)"
        )
