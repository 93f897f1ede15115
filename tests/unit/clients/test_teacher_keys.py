"""A key of the teacher belongs to one host: it is needed there, goes nowhere else, and is written nowhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from scripted_teacher import body, complete, config

from agentflow.clients.endpoint import limit_key
from agentflow.errors import (
    ConfigError,
    MalformedAnswer,
    MissingKeyError,
    ReplayMissing,
    RequestRejected,
    ServiceFailure,
)
from agentflow.ledger import Ledger

CANARY = "sk-canary-0123456789abcdef"


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
            seen.append(str(ledger.stops.of(limit_key(settings.provider, CANARY))))
            ledger.stops.lift()
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
