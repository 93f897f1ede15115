"""What several test folders share, made by the first test that needs it: one Prefect server and one Ray for the whole
session, and the smallest real model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How tests are given to two processes (`make test`): all that need Prefect and Ray to one of them, so that both
    are started once, and whole files of the others. (Marks for xdist's groups are lost between pytest 9 and xdist 3.8.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatTheyShare(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return file if file.startswith("tests/unit/") else "Prefect and Ray"

    return ByWhatTheyShare(config, log)


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API of a real Prefect server; runs started in this process or with this environment use it."""
    from flows.local import QUIET, prefect_server

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with prefect_server(tmp_path_factory.mktemp("prefect"), None) as url:
        yield f"{url}/api"


@pytest.fixture(scope="session")
def ray_up(prefect_api: str) -> Iterator[None]:
    """A local Ray with two cores, connected; runs in this process use it and leave it up."""
    from flows.local import ray_cluster

    with ray_cluster(2):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model artifact's folder: two layers, random weights, its own byte-level BPE tokenizer."""
    from agentflow.models.loading import convert
    from agentflow.models.sources import TinyModel

    folder = tmp_path_factory.mktemp("tiny_base")
    convert(TinyModel(), folder)
    return folder
