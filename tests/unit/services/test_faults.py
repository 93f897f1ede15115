"""Fault scripts without HTTP: which requests a rule hits, and what a wrong script says."""

from __future__ import annotations

import json

import pytest

from agentflow.errors import InputError
from agentflow.services.faults import Rule, Script, parse_rules, read_rules


def fired(rules: list[Rule], bodies: list[bytes], path: str = "/search") -> list[int | None]:
    script = Script(rules)
    return [script.choose(path, body) for body in bodies]


def test_first_hits_only_the_first_requests() -> None:
    assert fired([Rule(kind="status", first=2)], [b"a", b"b", b"c"]) == [0, 0, None]


def test_every_hits_each_nth_request() -> None:
    assert fired([Rule(kind="empty", every=3)], [b"a"] * 7) == [None, None, 0, None, None, 0, None]


def test_after_leaves_the_first_requests_alone() -> None:
    assert fired([Rule(kind="status", after=2, first=1)], [b"a"] * 4) == [None, None, 0, None]


def test_rules_follow_each_other_because_a_rule_sees_only_what_was_let_through() -> None:
    rules = [Rule(kind="status", status=429, first=2), Rule(kind="drop_before", first=1)]
    assert fired(rules, [b"a"] * 4) == [0, 0, 1, None]


def test_per_body_fails_every_distinct_call_once() -> None:
    assert fired([Rule(kind="status", first=1, per_body=True)], [b"a", b"b", b"a", b"b"]) == [0, 0, None, None]


def test_path_restricts_a_rule() -> None:
    rules = [Rule(kind="status", path="/v1/chat")]
    assert fired(rules, [b"a"]) == [None]
    assert fired(rules, [b"a"], path="/v1/chat/completions") == [0]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_contains_looks_through_json_escapes(ascii_only: bool) -> None:
    body = json.dumps({"messages": [{"content": 'Who is "Zoë"?\nNow.'}]}, ensure_ascii=ascii_only).encode()
    assert fired([Rule(kind="status", contains='"Zoë"?\nNow')], [body, b"\xff not json"]) == [0, None]


def test_share_hits_the_same_bodies_every_time_and_about_that_share() -> None:
    bodies = [str(number).encode() for number in range(1000)]
    rules = [Rule(kind="status", share=0.2)]
    hits = fired(rules, bodies)
    assert hits == fired(rules, bodies)
    assert 150 < hits.count(0) < 250


def test_retry_after_is_seconds_or_an_http_date() -> None:
    assert Rule(kind="status", retry_after_s=86400).response_headers() == {"retry-after": "86400"}
    assert Rule(kind="status", retry_after_s=0.25).response_headers() == {"retry-after": "0.25"}
    date = Rule(kind="status", retry_after_s=5, retry_after_as="date").response_headers()["retry-after"]
    assert date.endswith(" GMT")


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ('[{"kind": "explode"}]', "drop_before"),
        ('[{"kind": "status", "frist": 1}]', "frist"),
        ('[{"kind": "delay"}]', "delay_s"),
        ('[{"kind": "empty", "status": 429}]', "status"),
        ('[{"kind": "status", "first": 0}]', "first"),
        ('{"kind": "status"}', "list"),
        ("[{", "JSON"),
    ],
)
def test_a_wrong_script_is_refused_with_the_field_and_what_is_allowed(script: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_rules(script, "'faults.json'")


def test_a_missing_script_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no-such\.json"):
        read_rules(tmp_path / "no-such.json")
