"""Services that outlive what is killed, and one undisturbed run to compare with."""

from __future__ import annotations

from collections.abc import Iterator

import data_flow
import pytest
from processes import SETTINGS, DataProcess, Undisturbed, paid

from agentflow.services.server import LocalService
from flows.recipes import load_recipe


@pytest.fixture
def services() -> Iterator[tuple[LocalService, LocalService]]:
    """Teacher and search, owned by the test."""
    teacher, search = data_flow.services(load_recipe("smoke", SETTINGS))
    with teacher, search:
        yield teacher, search


@pytest.fixture(scope="session")
def undisturbed(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    own = data_flow.services(load_recipe("smoke", SETTINGS))
    with own[0], own[1]:
        result = DataProcess(tmp_path_factory.mktemp("undisturbed"), own, SETTINGS).finish()
        assert set(result["status"].values()) == {"ran"}
        return Undisturbed(result["digests"], paid(own))
