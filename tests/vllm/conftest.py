"""Tests of what only runs where vLLM is installed; its build for CPUs will do (`make test-vllm`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from taught_model import teach_questions

from agentflow.models.loading import convert
from agentflow.models.sources import TinyModel

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# GiB.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked, so that environments without vLLM leave it out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, adapter/ and questions/. Heads of 32: vLLM's attention on CPUs takes no smaller ones."""
    base = tmp_path_factory.mktemp("base")
    convert(TinyModel(hidden=128), base)
    return teach_questions(base, tmp_path_factory.mktemp("taught"), steps=80)
