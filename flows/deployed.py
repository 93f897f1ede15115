"""The flows behind the deployments: nightly-data, train, evaluate, full. One flow run each, whose tasks are the stages
and batches, so that Retry in the UI repairs the very run that failed.

In: parameters (the form) and the worker's environment, which says where: AGENTFLOW_ROOT, AGENTFLOW_LEDGER,
AGENTFLOW_CPUS, AGENTFLOW_RESOURCES, AGENTFLOW_BATCH_LIMIT, RAY_ADDRESS, PREFECT_API_URL, keys. Out: artifacts and a
report below the root.
A retry runs the whole body again: what is committed is found, what is paid is replayed, the rest is made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import ray
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.task_runners import TaskRunner
from prefect_ray import RayTaskRunner

from agentflow.artifacts.store import Store
from agentflow.errors import ConfigError
from agentflow.report.markdown import safe_cell
from flows.cluster import check_room, configured_address
from flows.estimating import estimates, lines
from flows.local import QUIET, local_services, ray_cluster
from flows.metrics import serve_metrics
from flows.nights import night_of
from flows.output import outlive_worker
from flows.parameters import NightlyParameters, RunParameters
from flows.pipeline import Part, make_all
from flows.plan import decide
from flows.recipes import Recipe
from flows.reporting import RunWatch, open_run_ledger, work_and_report
from flows.run import RunOptions, check_keys, context_of, cpus_of
from flows.signals import cancellable
from tasks.context import RunContext
from tasks.keys import load_secrets
from tasks.making import Made, collected
from tasks.resources import ResourcePlan, by_stage, load_resources

PARTS: tuple[Part, ...] = ("data", "training", "evaluation")
DATA = ("questions", "traces", "tool_insertion", "loss_filter")
TRAINING = (*DATA, "sft", "cold_start", "grpo")


class LateRayRunner(RayTaskRunner):
    """Uses the Ray that the flow's body connects to. Connecting in the body makes an unreachable cluster an error of
    the run with a message, and not a crash before its first line.
    """

    def __enter__(self) -> LateRayRunner:
        TaskRunner.__enter__(self)
        return self


@flow(name="nightly-data", retries=0, task_runner=LateRayRunner(), persist_result=False)
def nightly_data(run: NightlyParameters) -> None:
    """Questions to filtered traces, in the edition of the night this run was scheduled for."""
    night = night_of(flow_run.id, run.night)
    get_run_logger().info("night %s, regenerate: %s", night, run.regenerate)
    make_deployed(run.for_night(night), run, "data")


@flow(name="train", retries=0, task_runner=LateRayRunner(), persist_result=False)
def train(run: RunParameters) -> None:
    """SFT, cold start and GRPO on data that is there already; makes no paid data."""
    make_deployed(run.chosen(), run, "training", needs=DATA)


@flow(name="evaluate", retries=0, task_runner=LateRayRunner(), persist_result=False)
def evaluate(run: RunParameters) -> None:
    """Held-out questions answered by models that are there already; trains nothing."""
    make_deployed(run.chosen(), run, "evaluation", needs=TRAINING)


@flow(name="full", retries=0, task_runner=LateRayRunner(), persist_result=False)
def full(run: RunParameters) -> None:
    """Everything: questions to evaluation."""
    make_deployed(run.chosen(), run, "evaluation")


def options_here(run: RunParameters) -> RunOptions:
    """Where this worker's runs happen. Raises ConfigError for a core count, port or resources file that is none."""
    cpus = os.environ.get("AGENTFLOW_CPUS", "0")
    if not cpus.isdigit():
        raise ConfigError(f"AGENTFLOW_CPUS={cpus!r} is not a whole number of cores; correct it or unset it (all cores)")
    resources = os.environ.get("AGENTFLOW_RESOURCES")
    return RunOptions(
        resources=load_resources(Path(resources)) if resources else ResourcePlan(),
        root=Path(os.environ.get("AGENTFLOW_ROOT", "runs")),
        ledger_url=os.environ.get("AGENTFLOW_LEDGER"),
        budget_usd=run.budget_usd,
        flow_run=flow_run.id,
        cpus=int(cpus),
        metrics_port=_metrics_port(),
    )


def _metrics_port() -> int | None:
    port = os.environ.get("AGENTFLOW_METRICS_PORT") or "0"
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"AGENTFLOW_METRICS_PORT={port!r} is no port (1 to 65535); correct or unset it (no metrics)")
    return int(port) or None


def context_here(
    recipe: Recipe, run: RunParameters, options: RunOptions, urls: tuple[str | None, str | None]
) -> RunContext:
    """The surroundings of a run of this worker."""
    where = context_of(recipe, options, *urls)
    changes: dict[str, object] = {"secrets": dict(run.secrets)}
    if options.cpus and options.resources == ResourcePlan():  # Ray is on this machine, whose cores are known
        changes |= by_stage(options.cpus)
    return where.model_copy(update=changes)


def make_deployed(recipe: Recipe, run: RunParameters, upto: Part, needs: tuple[str, ...] = ()) -> None:
    """Make what `recipe` names up to the part `upto`, and its report; `needs` must be there already."""
    outlive_worker()
    log = get_run_logger()
    close_ghosts(flow_run.id)
    options = options_here(run)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if needs:
        _require(recipe, options, needs, upto)
    made: dict[str, Made] = {}
    with ExitStack() as stack:
        stack.enter_context(cancellable())
        watch = stack.enter_context(RunWatch())
        urls = stack.enter_context(local_services(recipe))
        where = context_here(recipe, run, options, urls)
        load_secrets(where.secrets)
        open_run_ledger(where, options.budget_usd)
        stack.enter_context(serve_metrics(options.metrics_port, where, made, log.warning))
        asyncio.run(check_keys(recipe, where))
        say_estimate(recipe, where, upto, log.info)
        stack.enter_context(ray_cluster(cpus_of(options)))
        check_room(where, own=configured_address(None) is None)
        _check_stand_ins(recipe, urls)
        token = collected.set(made)
        try:
            report = work_and_report(recipe, where, made, watch, lambda: make_all(recipe, where, upto), log.error)
        finally:
            collected.reset(token)
    log.info("report: %s", report)
    listed = [f"- {safe_cell(one.name)}: {one.status} {safe_cell(one.artifact.ref)}" for one in made.values()]
    create_markdown_artifact(key="run", markdown="\n".join(listed), description=f"{recipe.name}: what this run made")


def say_estimate(recipe: Recipe, where: RunContext, upto: Part, say: Callable[[str], None]) -> None:
    """What the paid calls up to the part `upto` will cost, as lines of the log and as a Prefect artifact; nothing where
    nothing paid is to be made.
    """
    store = where.store()
    made_here = {"data": DATA, "training": TRAINING}.get(upto)
    decided = decide(recipe, store, where.training_workers)
    decisions = [one for one in decided if made_here is None or one.node.name in made_here]
    said = lines(estimates(recipe, decisions, store, where.access.ledger_url))
    for line in said:
        say(line)
    if said:
        listed = "\n".join(f"- {safe_cell(line)}" for line in said)
        create_markdown_artifact(
            key="estimate", markdown=listed, description=f"{recipe.name}: what paid calls will cost"
        )


def close_ghosts(flow_run_id: str | None) -> None:
    """Mark the tasks of an attempt whose process was killed as Crashed, before this attempt starts a task.

    Nobody else will, and they would show as running for ever.
    """
    if flow_run_id is None:
        return
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    open_states = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED])
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=open_states))
    with get_client(sync_client=True) as client:
        ghosts: list[TaskRun] = []
        while page := client.read_task_runs(flow_run_filter=mine, task_run_filter=unfinished, offset=len(ghosts)):
            ghosts += page  # the server answers with 200 at most
        for ghost in ghosts:
            client.set_task_run_state(ghost.id, Crashed(message="the process of its run was killed"), force=True)


def _require(recipe: Recipe, options: RunOptions, needs: tuple[str, ...], upto: Part) -> None:
    """Raise ConfigError if one of the nodes `needs` is not made yet, with the field that differs if one is known; or if
    the recipe ends before the part that was asked for.
    """
    if PARTS.index(recipe.upto) < PARTS.index(upto):
        raise ConfigError(f"recipe {recipe.name!r} ends after its {recipe.upto} (upto), so there is no {upto} to make")
    store = Store.open(options.root / "artifacts")
    for decision in decide(recipe, store, options.resources.training_workers):
        if decision.node.name in needs and not decision.reuse:
            why = "; ".join(str(change) for change in decision.changes[:3]) or "nothing of this recipe is made yet"
            raise ConfigError(
                f"{decision.node.name} of recipe {recipe.name!r} is not there ({why}), and this deployment does not "
                "make it: run nightly-data or full first, or give the settings and editions they ran with"
            )


def _check_stand_ins(recipe: Recipe, urls: tuple[str | None, str | None]) -> None:
    """Raise ConfigError where a stand-in on this machine cannot be reached from other nodes of the cluster."""
    nodes = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    local = [url for url in urls if url is not None and "//127.0.0.1:" in url]
    if local and len(nodes) > 1:
        raise ConfigError(
            f"recipe {recipe.name!r} uses a stand-in at {local[0]}, which the {len(nodes)} machines of this Ray "
            "cluster cannot reach: start `python -m agentflow.services` where all of them can and set "
            "AGENTFLOW_TEACHER_URL and AGENTFLOW_SEARCH_URL, or configure real endpoints (teacher.base_url, "
            "search.base_url)"
        )
