"""The data stages alone, questions to loss filter, as a flow: for tests that repeat, starve or kill them.

In: a recipe, a root and addresses of services that the test owns (their counts then survive a kill). Out: digests by
stage. As a script it is the process that gets killed: it prints the digests as JSON on its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from prefect import flow
from prefect_ray import RayTaskRunner

from agentflow.errors import AgentflowError
from agentflow.services.server import LocalService
from flows.plan import plan
from flows.recipes import Recipe, load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of
from tasks.context import RunContext
from tasks.loss_filter import make_loss_filter
from tasks.making import Made
from tasks.simple import make_base_model, make_questions
from tasks.tool_insertion import make_tool_insertion
from tasks.traces import make_traces

TABLES = ("questions", "traces", "tool_insertion", "loss_filter")


@flow(name="data", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def data_stages(recipe: Recipe, where: RunContext, until: str) -> dict[str, Made]:
    """The pipeline of `flows.pipeline`, up to and with the stage `until`."""
    of = {name: (node.identity, node.config) for name, node in plan(recipe).items()}
    made = {"questions": make_questions(*of["questions"], where)}
    made["traces"] = make_traces(*of["traces"], made["questions"], where)
    if until != "traces":
        made["tool_insertion"] = make_tool_insertion(*of["tool_insertion"], made["traces"], where)
    if until == "loss_filter":
        base = make_base_model(*of["base_model"], where)
        made["loss_filter"] = make_loss_filter(*of["loss_filter"], made["tool_insertion"], base, where)
    return made


def run_data(
    recipe: Recipe,
    root: Path,
    teacher_url: str | None,
    search_url: str | None,
    *,
    until: str = "loss_filter",
    budget_usd: float | None = None,
) -> dict[str, Made]:
    """Run the data stages in this process, against the Prefect server and the Ray that are up."""
    options = RunOptions(root=root, cpus=2, budget_usd=budget_usd)
    where = context_of(recipe, options, teacher_url, search_url)
    where.store()  # makes the folders
    open_run_ledger(where, budget_usd)
    return data_stages(recipe, where, until)


def digests(made: dict[str, Made]) -> dict[str, str | None]:
    """Digest of every table."""
    return {name: made[name].artifact.manifest.digest for name in TABLES if name in made}


def services(recipe: Recipe) -> tuple[LocalService, LocalService]:
    """The stand-ins `recipe` asks for, not started: teacher and search."""
    local, corpus = recipe.teacher.local, recipe.search.local
    teacher = LocalService(
        "teacher",
        wrong_rate=local.wrong_rate,
        seed=local.seed,
        world_seed=local.world_seed,
        latency_ms=local.latency_ms,
    )
    return teacher, LocalService("search", world_seed=corpus.world_seed, latency_ms=corpus.latency_ms)


def main() -> None:
    """Run the data stages with a Ray of this process's own, and with the configured Prefect server or its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--teacher", default=None)
    parser.add_argument("--search", default=None)
    parser.add_argument("--until", default="loss_filter")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()

    from flows.local import QUIET, prefect_server, ray_cluster

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    recipe = load_recipe("smoke", arguments.set)
    try:
        with prefect_server(arguments.root, None), ray_cluster(2):
            made = run_data(recipe, arguments.root, arguments.teacher, arguments.search, until=arguments.until)
    except AgentflowError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"digests": digests(made), "status": {name: one.status for name, one in made.items()}}))


if __name__ == "__main__":
    main()
