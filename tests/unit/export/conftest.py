"""A night to export from, made once; tests write only beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_night import make_night, recipe


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_night(root, recipe(), parts=["data"])
    return root
