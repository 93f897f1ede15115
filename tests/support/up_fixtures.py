"""Fixtures of tests on deployed runs: one `agentflow up` for all of them, with services whose counts they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import data_flow
import pytest
from deployed import Up, running_up

from agentflow.services.server import LocalService
from flows.recipes import load_recipe

DEPLOYED = (
    "questions.source.arithmetic_train=2",
    "questions.source.two_hop_train=4",
    "teacher.local.wrong_rate=0",
    "traces.batch_size=3",
    "tool_insertion.batch_size=1",
    "search.max_attempts=1",
    "search.local.latency_ms=150",
)


SOME_FAIL = {"kind": "status", "status": 500, "share": 0.3}
# Always the same searches, chosen by hash, and for ever.


def parameters(**more: Any) -> dict[str, Any]:
    """What the form of nightly-data is filled with."""
    return {"recipe": "smoke", "settings": list(DEPLOYED), **more}


@pytest.fixture(scope="session")
def stand_ins() -> Iterator[tuple[LocalService, LocalService]]:
    """Teacher and search of the deployed runs."""
    teacher, search = data_flow.services(load_recipe("smoke", DEPLOYED))
    with teacher, search:
        yield teacher, search


@pytest.fixture(scope="session")
def machine(stand_ins: tuple[LocalService, LocalService], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A machine on which somebody typed `agentflow up`."""
    with running_up(tmp_path_factory.mktemp("up"), stand_ins) as up:
        yield up


def asked(search: LocalService, *, failed: bool = False) -> list[str]:
    """The requests the service got (sha256 of their bodies), sorted; `failed`: those it was scripted to fail."""
    return sorted(entry["sha256"] for entry in search.history() if entry["status"] == 500 or not failed)
