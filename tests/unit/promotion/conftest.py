"""Nights made once for all tests of the folder, and a copy of them for each test that writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_night import make_night, recipe

NIGHTS = ("1", "good", "bad_model", "bad_data", "broken_tool")


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a night per edition: "1" and "good" alike, the others each with a fault of its own."""
    root = tmp_path_factory.mktemp("nights")
    make_night(root, recipe())
    make_night(root, recipe("edition=good"), right=lambda i: i % 2 == 0 or i == 1)
    make_night(root, recipe("edition=bad_model"), right=lambda i: i % 10 == 0, completion="<think>{0} {0} {0}</think>")
    make_night(root, recipe("edition=bad_data"), helps=lambda i: i % 4 == 0)
    make_night(root, recipe("edition=broken_tool"), failed=range(1, 45, 2))
    return root


@pytest.fixture
def root(nights: Path, tmp_path: Path) -> Path:
    """The same nights, for this test alone; nothing is promoted."""
    return Path(shutil.copytree(nights, tmp_path / "runs"))
