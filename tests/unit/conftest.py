"""The smallest real model, made once: two layers, random weights, its own byte-level BPE tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model artifact's folder."""
    from agentflow.models.loading import convert
    from agentflow.models.sources import TinyModel

    folder = tmp_path_factory.mktemp("tiny_base")
    convert(TinyModel(), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base: Path) -> Any:
    from agentflow.models.loading import load_tokenizer

    return load_tokenizer(tiny_base)


@pytest.fixture(scope="session")
def tiny_model(tiny_base: Path) -> Any:
    """In evaluation mode; tests must not train it."""
    from agentflow.models.loading import load_model

    return load_model(tiny_base).eval()
