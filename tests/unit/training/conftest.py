"""A tiny model that mostly answers with one calculator call, taught once."""

from __future__ import annotations

from pathlib import Path

import pytest
from taught_model import teach_questions


@pytest.fixture(scope="session")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, adapter/ and questions/; nothing in it may be changed."""
    return teach_questions(tiny_base, tmp_path_factory.mktemp("taught"), steps=80)
