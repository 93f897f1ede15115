"""One whole run of the `smoke` recipe, made once and looked at by many tests."""

from __future__ import annotations

import shutil

import pytest
from whole_run import FinishedRun, run_recipe

from flows.recipes import load_recipe


@pytest.fixture(scope="session")
def smoke(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole DAG, run once from nothing. Tests must not change what is below its root."""
    return run_recipe(load_recipe("smoke"), tmp_path_factory.mktemp("smoke") / "runs")


@pytest.fixture(scope="session")
def again(smoke: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The same run once more, over a copy of everything the first one left."""
    root = tmp_path_factory.mktemp("again") / "runs"
    shutil.copytree(smoke.root, root)
    return run_recipe(load_recipe("smoke"), root)
