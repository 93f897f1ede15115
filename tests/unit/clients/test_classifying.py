"""Headers and bodies of any shape become one typed failure or one answer, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.clients.classify import from_status, read_json, retry_after_s, scrub
from agentflow.clients.completion import Completed, read_completion, tokens_used
from agentflow.clients.search import read_results
from agentflow.errors import MalformedAnswer, ServiceFailure

NOW = datetime(2026, 3, 29, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90)), "date": format_datetime(NOW)}, 90.0),
        ({"retry-after": format_datetime(NOW), "date": format_datetime(NOW + timedelta(hours=1))}, 0.0),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_retry_after_date_without_a_server_date_is_compared_with_our_clock() -> None:
    wait = retry_after_s({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=50))})
    assert wait is not None and 45 < wait <= 50


@given(st.text(max_size=30))
def test_no_retry_after_text_breaks_the_reading(text: str) -> None:
    wait = retry_after_s({"retry-after": text, "date": text})
    assert wait is None or wait >= 0


@given(st.integers(min_value=100, max_value=599).filter(lambda status: status != 200), st.text(max_size=200))
def test_every_status_and_body_gives_one_failure_without_the_secret(status: int, body: str) -> None:
    failure = from_status(status, {}, body + "SECRET", service="teacher", secrets=["SECRET"])
    assert isinstance(failure, ServiceFailure) and failure.status == status
    assert "SECRET" not in str(failure) and len(str(failure)) < 400 and "\n" not in str(failure)


def test_messages_are_cut_and_on_one_line() -> None:
    assert scrub("a\n  b KEY " + "x" * 1000, ["KEY"]).startswith("a b [key] xxx")
    assert len(scrub("x" * 1000, [])) < 310


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("content", "reasoning_content", "reasoning", "refusal", "role"), JSON)
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={"message": MESSAGE | JSON, "finish_reason": st.sampled_from(["stop", "length", "content_filter"]) | JSON},
)
BODY = st.fixed_dictionaries({}, optional={"choices": st.lists(CHOICE | JSON, max_size=2) | JSON, "usage": JSON})


@given(BODY)
def test_any_body_is_a_completion_with_content_or_a_typed_failure(body: dict[str, Any]) -> None:
    try:
        answer = read_completion(body)
    except ServiceFailure:
        return
    assert isinstance(answer, Completed) and answer.content.strip()


@given(JSON)
def test_token_counts_are_believed_only_if_they_are_counts(usage: Any) -> None:
    tokens = tokens_used({"usage": usage})
    assert tokens is None or all(isinstance(count, int) and count >= 0 for count in tokens)


@pytest.mark.parametrize("count", [True, -1, 1.5, "9", None, 2**50])
def test_unbelievable_token_counts_are_unknown(count: Any) -> None:
    assert tokens_used({"usage": {"prompt_tokens": 1, "completion_tokens": count}}) is None


@given(st.fixed_dictionaries({}, optional={"results": st.lists(JSON, max_size=3) | JSON}) | JSON)
def test_any_search_body_is_hits_or_a_typed_failure(body: Any) -> None:
    try:
        hits = read_results(body)
    except MalformedAnswer:
        return
    assert all(isinstance(hit["content"], str) and isinstance(hit["score"], float) for hit in hits)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_malformed(content: bytes) -> None:
    try:
        assert isinstance(read_json(content, service="teacher", secrets=[]), dict)
    except MalformedAnswer as failure:
        assert failure.status == 200


@given(st.integers(min_value=0, max_value=79))
def test_json_cut_anywhere_is_malformed(cut: int) -> None:
    whole = json.dumps({"choices": [{"message": {"content": "x" * 40}, "finish_reason": "stop"}]}).encode()
    with pytest.raises(MalformedAnswer):
        read_json(whole[:cut], service="teacher", secrets=[])
