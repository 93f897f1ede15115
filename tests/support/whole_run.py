"""`agentflow run` in the test's own process: what it leaves behind, with the counts of the services it started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.services.server import LocalService
from flows.recipes import Recipe


class CountedService(LocalService):
    """A local service that leaves its own counts behind when it is stopped."""

    last_stats: dict[str, dict[str, Any]] = {}

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            CountedService.last_stats[self.service] = self.stats()
        super().stop()


@dataclass
class FinishedRun:
    """What a run left behind."""

    root: Path
    page: Path
    output: str
    # What the command prints while it runs.
    services: dict[str, dict[str, Any]]
    # Counts of the services themselves.
    artifacts: dict[str, Artifact]
    # By node of the plan.

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        return json.loads(self.page.with_suffix(".json").read_text())

    @property
    def statuses(self) -> dict[str, str]:
        """By node: "ran" or "reused"."""
        return {stage["name"]: stage["status"] for stage in self.report["stages"]}


def run_recipe(recipe: Recipe, root: Path) -> FinishedRun:
    """`agentflow run` in this process, with the services' counts kept."""
    from flows.plan import plan
    from flows.run import RunOptions, run

    CountedService.last_stats = {}
    console = Console(record=True, width=160, force_terminal=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.local.LocalService", CountedService)
        page = run(recipe, RunOptions(root=root, cpus=2), console)
    store = Store.open(root / "artifacts")
    artifacts = {}
    for name, node in plan(recipe).items():
        found = store.find(node.identity.stage, node.identity.fingerprint)
        assert found is not None, f"{name} left no artifact"
        artifacts[name] = found
    return FinishedRun(root, page, console.export_text(), dict(CountedService.last_stats), artifacts)
