"""`smoke` on a real two-node Ray cluster (two `ray start` processes with one core each) whose second node dies."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray_nodes import RayNodes

pytestmark = pytest.mark.faults

RESOURCES = """
loss_filter: {workers: 2, num_cpus: 1}
training: {workers: 2, num_cpus: 1, wait_s: %d}
evaluate: {num_cpus: 1, workers: 2}
decode_batch: 3
"""
SETTINGS = (
    "base_model.source.layers=4",  # scoring takes long enough to be seen
    "base_model.source.hidden=256",
    "questions.source.arithmetic_train=240",
    "traces.batch_size=124",  # two batches: one for each node
    "tool_insertion.batch_size=124",
    "sft.settings.max_steps=12",
    "sft.settings.checkpoint_steps=2",
)


class ClusterRun:
    """`agentflow run smoke` against a cluster; sees which work runs on which node."""

    def __init__(self, nodes: RayNodes, root: Path, wait_s: int, settings: tuple[str, ...]) -> None:
        self.nodes, self.root = nodes, root
        self.seen: dict[str, set[str]] = defaultdict(set)
        # Node -> titles of the work it did.
        resources = root / "resources.yaml"
        resources.write_text(RESOURCES % wait_s)
        command = [sys.executable, "-m", "flows.cli", "run", "smoke", "--root", str(root)]
        command += ["--ray-address", nodes.address, "--resources", str(resources)]
        command += [f"--set={setting}" for setting in settings]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **nodes.environment},
            stdout=self._output,
            stderr=self._output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 600) -> None:
        """Wait for `condition` while the run is going on."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.said()}"
            assert time.monotonic() < deadline, f"no {what}: {self.said()}"
            time.sleep(0.02)

    def done(self, stage: str) -> int:
        """What the stage's progress file says."""
        try:
            return int(json.loads((self.root / "smoke" / "progress" / f"{stage}.json").read_text())["done"])
        except (OSError, ValueError):
            return 0

    def works(self, name: str, title: str) -> bool:
        """Whether a node is at work on `title`."""
        titles = {line for line in self.nodes.workers(name) if line.startswith("ray::") and "IDLE" not in line}
        self.seen[name] |= {line.split()[0] for line in titles}
        return any(line.startswith(f"ray::{title}") for line in titles)

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read()[-5000:]

    def report(self) -> dict[str, Any]:
        return json.loads((self.root / "smoke" / "report.json").read_text())


@pytest.fixture(scope="module")
def nodes(prefect_api: str) -> Iterator[RayNodes]:
    with RayNodes({"PREFECT_API_URL": prefect_api}) as started:
        started.start("head")
        yield started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


def logs(api: str, text: str) -> list[str]:
    """Lines in Prefect that hold `text`."""
    found: list[str] = []
    for offset in itertools.count(0, 200):  # the most one answer holds
        body = {"limit": 200, "offset": offset, "sort": "TIMESTAMP_DESC"}
        answer = httpx.post(f"{api}/logs/filter", json=body, timeout=30)
        answer.raise_for_status()
        found += [entry["message"] for entry in answer.json() if text in entry["message"]]
        if len(answer.json()) < 200:
            return found
    raise AssertionError("unreachable")


@pytest.mark.timeout(1800)
def test_the_run_goes_on_when_a_node_dies_in_the_filter_and_in_training(
    nodes: RayNodes, root: Path, prefect_api: str
) -> None:
    nodes.start("second")
    with nodes.head_occupier() as occupier:
        run = ClusterRun(nodes, root, 600, SETTINGS)
        run.until(lambda: run.works("second", "traces-batch"), "batch on the second node")
        run.until(lambda: run.works("head", "traces-batch"), "batch on the head")
        occupier.take()  # before the filter: where its scorer runs is no matter of chance
        occupier.wait()
        run.until(lambda: run.works("second", "ScoringActor.score"), "scoring on the second node")
        nodes.kill("second")
        occupier.free()
    # The filter ends on the one node that is left; training asks for two workers and waits for the next node.
    run.until(lambda: any((root / "artifacts").glob("loss_filter/[!.]*")), "filtered rows")
    nodes.start("third")
    run.until(lambda: run.done("sft") >= 3, "third step of sft")
    assert run.works("third", "RayTrainWorker") and run.works("head", "RayTrainWorker")
    nodes.kill("third")
    nodes.start("fourth")
    assert run.process.wait(900) == 0, run.said()
    report = run.report()
    assert report["status"] == "completed" and {stage["status"] for stage in report["stages"]} == {"ran"}
    (handed_out,) = logs(prefect_api, "loss_filter: a worker died")
    assert "Its work is handed out again" in handed_out
    (lost,) = logs(prefect_api, "sft: a training worker died")
    assert "goes on from its last checkpoint" in lost
    print({name: sorted(work) for name, work in run.seen.items()})


@pytest.mark.timeout(1200)
def test_training_without_a_replacement_waits_its_time_and_fails_with_that_reason(nodes: RayNodes, root: Path) -> None:
    """Goes on from the artifacts of the test before: only GRPO is new."""
    if not (root / "artifacts" / "cold_start").is_dir():
        pytest.skip("the run before left no cold start to go on from")
    run = ClusterRun(nodes, root, 20, (*SETTINGS, "grpo.steps=60"))
    run.until(lambda: run.done("grpo") >= 1, "first step of grpo")
    nodes.kill("fourth")
    assert run.process.wait(400) == 1, run.said()
    said = run.said()
    assert "error: grpo: no room for 2 workers with 1 CPU and 0 GPU each within 20 s; nodes alive: 1 (1 CPU" in said
    assert run.report()["status"] == "failed" and "no room for 2 workers" in run.report()["error"]
