"""A tiny base model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model artifact's folder: two layers, random weights, its own byte-level BPE tokenizer."""
    from agentflow.models.loading import convert
    from agentflow.models.sources import TinyModel

    folder = tmp_path_factory.mktemp("tiny_base")
    convert(TinyModel(), folder)
    return folder
