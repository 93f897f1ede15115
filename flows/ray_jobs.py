"""A recipe made on a Ray cluster by a Ray Job, as a Prefect flow and for `agentflow submit`.

The flow runs on a worker that is a node of the cluster with 0 CPUs, and only waits: killed, cancelled or retried, it
finds the job by its id (`tasks.ray_jobs`). In: parameters, and this worker's environment: AGENTFLOW_JOBS
(http://HEAD:8265), AGENTFLOW_ROOT (a folder all nodes see), AGENTFLOW_LEDGER, AGENTFLOW_RESOURCES. Keys are in the
environment of the cluster's nodes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow
from prefect.artifacts import create_link_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from agentflow.artifacts.store import Store
from agentflow.errors import ConfigError
from agentflow.records import sha256_text
from flows.output import outlive_worker
from flows.parameters import RunParameters
from flows.plan import Workers, decide, plan
from flows.recipes import Recipe
from flows.signals import cancellable
from tasks.ray_jobs import Job, make_by_job, open_jobs
from tasks.resources import workers_in

PASSED_ON = ("PREFECT_API_URL", "AGENTFLOW_TEACHER_URL", "AGENTFLOW_SEARCH_URL", "AGENTFLOW_BATCH_LIMIT")
# Addresses and names the job's driver needs; no key is among them.


def job_of(recipe: Recipe, command: Sequence[str], workers: Workers | None = None) -> Job:
    """The job that makes `recipe` by `command`, with `workers` in its trainings."""
    fingerprints = " ".join(node.identity.fingerprint for node in plan(recipe, workers).values())
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return Job(recipe.name, sha256_text(fingerprints)[:12], command, environment)


def run_command(
    recipe: str,
    settings: Sequence[str],
    root: Path,
    *,
    ledger_url: str | None = None,
    resources: str | None = None,
    budget_usd: float | None = None,
) -> list[str]:
    """`agentflow run` as a node of the cluster runs it."""
    command = ["agentflow", "run", recipe, "--root", str(root.absolute()), "--ray-address", "auto"]
    for setting in settings:
        command += ["--set", setting]
    if ledger_url:
        command += ["--ledger", ledger_url]
    if resources:
        command += ["--resources", str(Path(resources).absolute())]
    if budget_usd is not None:
        command += ["--budget-usd", str(budget_usd)]
    return command


def make_on_cluster(
    recipe: Recipe,
    command: Sequence[str],
    address: str,
    root: Path,
    log: logging.Logger | Any,
    resources: str | None = None,
    unwanted: Callable[[], bool] = lambda: True,
) -> str:
    """See that `recipe` is made by a job of the cluster; returns the job's id. Raises as tasks.ray_jobs.

    `unwanted`: whether an interrupted waiting is to stop the job.
    `resources`: the file that `command` names, read here too: how many workers train is part of what is made.
    """
    workers = workers_in(resources)

    def made() -> bool:
        return all(decision.reuse for decision in decide(recipe, Store.open(root / "artifacts"), workers))

    return make_by_job(open_jobs(address), job_of(recipe, command, workers), log, made, unwanted)


def cancelled(flow_run_id: str, log: logging.Logger | Any) -> bool:
    """Whether somebody pressed Cancel for this run. A signal alone does not say so: a worker that is stopped, or a
    machine that is shut down, sends the same one.
    """
    patience = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
    try:
        with patience, get_client(sync_client=True, httpx_settings={"timeout": 5}) as client:
            state = client.read_flow_run(UUID(flow_run_id)).state
    except (httpx.HTTPError, ObjectNotFound) as error:
        log.warning("the Prefect server does not say whether this run was cancelled (%s)", error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@flow(name="train-on-cluster", retries=0, persist_result=False)
def train_on_cluster(run: RunParameters) -> None:
    """The whole recipe, trainings included, as one Ray Job. Retry finds the job; Cancel, and nothing else, stops it."""
    outlive_worker()
    address = os.environ.get("AGENTFLOW_JOBS")
    if not address:
        raise ConfigError(
            "AGENTFLOW_JOBS is not set for this worker: give it the cluster's job server, http://HEAD:8265"
        )
    if run.secrets:
        raise ConfigError(
            f"secrets {sorted(run.secrets)}: a Ray Job takes its keys from the environment of the cluster's nodes; set "
            "them there and leave `secrets` empty"
        )
    editions = {"edition": run.edition, "search_edition": run.search_edition}
    settings = [*run.settings, *(f"{name}={value}" for name, value in editions.items() if value)]
    root = Path(os.environ.get("AGENTFLOW_ROOT", "runs"))
    resources = os.environ.get("AGENTFLOW_RESOURCES") or None
    command = run_command(
        run.recipe,
        settings,
        root,
        # A ledger's URL may hold a password, and Ray shows commands: the nodes have it in their environment.
        resources=resources,
        budget_usd=run.budget_usd,
    )
    log = get_run_logger()
    unwanted = partial(cancelled, str(flow_run.id), log)
    with cancellable():
        submission_id = make_on_cluster(run.chosen(), command, address, root, log, resources, unwanted)
    link = f"{address.rstrip('/')}/#/jobs/{submission_id}"
    create_link_artifact(key="ray-job", link=link, link_text=submission_id, description="the Ray Job that made this")
