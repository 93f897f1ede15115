"""Whatever a service sends with status 200 ends as a usable answer or a typed failure; kept is what asking again would
not change.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.clients.classify import read_json
from agentflow.clients.completion import Completed, read_completion, tokens_used
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.errors import ServiceFailure
from agentflow.ledger import Ledger

TEXTS = st.sampled_from(
    ["", " \n", "Answer: 42", "<think>", "</think>", "<think>a</think>b", "\ud800", "\x00"]
) | st.text(max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
FINISH = st.sampled_from(["stop", "length", "content_filter", "tool_calls", ""]) | VALUES


FINAL = ("cut", "filtered")
# Whole answers that nobody can use: kept, so that they are paid once.


def optional(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the fields, each as it should be or as anything at all."""
    return st.fixed_dictionaries({}, optional={name: value | VALUES for name, value in fields.items()})


MESSAGES = optional(content=TEXTS, reasoning_content=TEXTS, reasoning=TEXTS, refusal=TEXTS, role=st.just("assistant"))
CHOICES = optional(message=MESSAGES, finish_reason=FINISH, index=st.just(0))
USAGE = optional(prompt_tokens=st.integers(0, 5000), completion_tokens=st.integers(0, 5000))
BODIES = optional(choices=st.lists(CHOICES, max_size=2), usage=USAGE, error=VALUES) | VALUES
HTML = st.text(max_size=30).map(lambda text: f"<!doctype html><html><body>{text}</body></html>")


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes of a body: JSON of some shape, HTML or anything, whole or cut."""
    text = draw(BODIES.map(json.dumps) | HTML | st.text(max_size=40))
    content = (
        text.encode("utf-8", "replace")
        if draw(st.booleans())
        else draw(st.binary(max_size=40)) + text.encode("utf-16", "replace")
    )
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


def judged(content: bytes) -> Completed | ServiceFailure:
    try:
        body = read_json(content, service="teacher", secrets=["sk-1"])
        used = tokens_used(body)
        assert used is None or min(used) >= 0
        return read_completion(body)
    except ServiceFailure as failure:
        return failure


@given(contents())
@settings(max_examples=300)
def test_any_body_is_an_answer_or_a_typed_failure(content: bytes) -> None:
    result = judged(content)
    if isinstance(result, Completed):
        assert result.content.strip() and result.finish_reason not in ("length", "content_filter")
    else:
        assert result.kind in {"malformed", "empty", *FINAL, "server_error"} and len(str(result)) < 600


@given(content=contents())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_over_http_only_answers_that_asking_again_would_not_change_are_kept(
    content: bytes, server: Any, tmp_path: Path, reply: Any
) -> None:
    server.script = [reply(content)]

    async def ask(ledger: Ledger) -> tuple[Any, bool]:
        async with TeacherClient.open(TeacherConfig(max_attempts=1), ledger, base_url=server.url) as teacher:
            messages = [{"role": "user", "content": content.hex()}]
            try:
                result: Any = await teacher.complete(messages)
            except ServiceFailure as failure:
                result = failure
            stored = await asyncio.to_thread(ledger.get, teacher.call(messages).key)
            return result, stored is not None and stored["response"] is not None

    with Ledger.open(str(tmp_path / "ledger.db"), run_id="r") as ledger:
        result, kept = asyncio.run(ask(ledger))
    expected = judged(content)
    if isinstance(expected, ServiceFailure):
        assert isinstance(result, type(expected)) and kept == (expected.kind in FINAL)
    else:
        assert result.content == expected.content and kept
