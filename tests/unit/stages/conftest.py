"""The local teacher and the local search service, over real HTTP, and a real ledger for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentflow.ledger import Ledger
from agentflow.services.server import LocalService


@pytest.fixture(scope="module")
def teacher_service() -> Iterator[LocalService]:
    with LocalService("teacher", wrong_rate=0.3) as service:
        yield service


@pytest.fixture(scope="module")
def search_service() -> Iterator[LocalService]:
    with LocalService("search", world_seed=0) as service:
        yield service


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "ledger.db"), run_id="run") as opened:
        yield opened
