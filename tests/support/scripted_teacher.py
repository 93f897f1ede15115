"""One question to a scripted endpoint through the teacher client, and the answer it should give."""

from __future__ import annotations

import asyncio
from typing import Any

from agentflow.clients.retry import Patience
from agentflow.clients.teacher import TeacherAnswer, TeacherClient, TeacherConfig
from agentflow.ledger import Ledger

QUESTION = [{"role": "user", "content": "What is 6 * 7?"}]
QUICK = Patience(first_wait_s=0.0, longest_wait_s=0.05, breaker_failures=1000)


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
