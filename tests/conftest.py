"""What several test folders share, made by the first test that needs it: one Prefect server and one Ray for the whole
session, and the smallest real model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in two processes (`make test`): all that need Prefect and Ray in one, so that both are started
    once; of the others whole files, for what a file's tests share.
    """
    for item in items:
        group = str(item.path) if "unit" in item.path.parts else "prefect and ray"
        item.add_marker(pytest.mark.xdist_group(group))


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
