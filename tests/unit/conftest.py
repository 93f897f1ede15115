"""The smallest real model (`tiny_base`), loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base: Path) -> Any:
    from agentflow.models.loading import load_tokenizer

    return load_tokenizer(tiny_base)


@pytest.fixture(scope="session")
def tiny_model(tiny_base: Path) -> Any:
    """In evaluation mode; tests must not train it."""
    from agentflow.models.loading import load_model

    return load_model(tiny_base).eval()
