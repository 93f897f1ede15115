"""Many batch tasks at once on one Prefect server, while somebody looks at its UI.

`python -m benchmarks.mapped_batches --root R --batches N [--database-url U] [--ledger-url L]` runs the teacher stage of
the smoke recipe over N questions in batches of one, and prints {"wall_s", "states": {state: task runs}, "rows",
"queries", "unanswered", "slowest_s", "p95_s", "lock_errors"}. What is asked meanwhile, twice a second, is what the UI's
pages of runs and of tasks ask.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from prefect import flow
from prefect_ray import RayTaskRunner

from agentflow.artifacts.store import Store
from flows.local import QUIET, local_services, prefect_server, ray_cluster
from flows.plan import plan
from flows.recipes import Recipe, load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of, cpus_of
from tasks.context import RunContext
from tasks.making import Made
from tasks.simple import make_questions
from tasks.traces import make_traces

LOCK_WORDS = ("database is locked", "database table is locked", "deadlock detected", "could not serialize")
LOOK_EVERY_S = 0.5
GIVE_UP_S = 30.0
# Of one query; then it counts as unanswered.
STATES = ("COMPLETED", "FAILED", "CRASHED", "RUNNING", "PENDING", "SCHEDULED", "CANCELLED")
RECORDED_S = 60.0
# A server records the last states of tasks a little after the flow has ended.


@flow(name="mapped-batches", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def mapped_batches(recipe: Recipe, where: RunContext) -> Made:
    """Questions, and one task per batch of them."""
    of: dict[str, tuple[Any, Any]] = {name: (node.identity, node.config) for name, node in plan(recipe).items()}
    return make_traces(*of["traces"], make_questions(*of["questions"], where), where)


class Onlooker:
    """Asks a Prefect server what its UI asks, until the block is left."""

    def __init__(self, api: str) -> None:
        self._api, self._stop = api, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="onlooker")
        self.seconds: list[float] = []
        self.unanswered = 0

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        pages: tuple[tuple[str, dict[str, Any]], ...] = (
            ("flow_runs/filter", {"limit": 20, "sort": "EXPECTED_START_TIME_DESC"}),
            ("task_runs/filter", {"limit": 20, "sort": "EXPECTED_START_TIME_DESC"}),
            ("task_runs/count", {}),
        )
        with httpx.Client(timeout=GIVE_UP_S, trust_env=False) as client:
            while not self._stop.wait(LOOK_EVERY_S):
                for path, body in pages:
                    started = time.monotonic()
                    try:
                        answered = client.post(f"{self._api}/{path}", json=body).status_code == 200
                    except httpx.HTTPError:
                        answered = False
                    self.seconds.append(time.monotonic() - started)
                    self.unanswered += not answered

    def found(self) -> dict[str, Any]:
        """Queries asked, those without an answer, and seconds a query took."""
        ordered = sorted(self.seconds) or [0.0]
        return {
            "queries": len(self.seconds),
            "unanswered": self.unanswered,
            "slowest_s": round(ordered[-1], 2),
            "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        }


def lock_errors(text: str) -> int:
    """Lines of a log that tell of a lock that was not got."""
    return sum(any(word in line for word in LOCK_WORDS) for line in text.splitlines())


def states_of_batches(api: str, wanted: int) -> dict[str, int]:
    """Batch task runs by state, as the server says; waits until `wanted` of them are recorded as completed."""
    deadline = time.monotonic() + RECORDED_S
    while True:
        found = {}
        for state in STATES:
            # `traces` alone is the flow's own stage; a batch is called `traces 3/200`.
            chosen = {"state": {"type": {"any_": [state]}}, "name": {"like_": "traces "}}
            answer = httpx.post(f"{api}/task_runs/count", json={"task_runs": chosen}, timeout=60, trust_env=False)
            answer.raise_for_status()
            found[state] = int(answer.json())
        if found["COMPLETED"] >= wanted or time.monotonic() > deadline:
            return {state: count for state, count in found.items() if count}
        time.sleep(1)


def run_batches(root: Path, batches: int, database_url: str | None, ledger_url: str | None) -> dict[str, Any]:
    """Everything up, the flow run and looked at; what was seen."""
    for name, value in {**QUIET, "PREFECT_LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("prefect").setLevel(logging.ERROR)
    settings = (
        f"questions.source.arithmetic_train={batches}", "questions.source.arithmetic_templates=12",
        "questions.source.two_hop_train=0", "traces.batch_size=1", "teacher.local.wrong_rate=0",
    )  # fmt: skip
    recipe = load_recipe("smoke", settings)
    options = RunOptions(root=root, ledger_url=ledger_url)
    with ExitStack() as stack:
        where = context_of(recipe, options, *stack.enter_context(local_services(recipe)))
        Store.open(where.root / "artifacts")
        open_run_ledger(where, None)
        url = stack.enter_context(prefect_server(root, None, database_url=database_url))
        stack.enter_context(ray_cluster(cpus_of(options)))
        with Onlooker(f"{url}/api") as onlooker:
            started = time.monotonic()
            made = mapped_batches(recipe, where)
            wall_s = time.monotonic() - started
        states = states_of_batches(f"{url}/api", batches)
    said = (root / ".prefect" / "server.log").read_text(errors="replace")
    rows = made.artifact.manifest.rows
    seen = {"wall_s": round(wall_s, 1), "states": states, "rows": rows, "lock_errors": lock_errors(said)}
    return {**seen, **onlooker.found()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--database-url", default=None)
    parser.add_argument("--ledger-url", default=None)
    given = parser.parse_args(arguments)
    print(json.dumps(run_batches(given.root, given.batches, given.database_url, given.ledger_url)))


if __name__ == "__main__":
    main()
