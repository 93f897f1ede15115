"""One run from start to report: surroundings up, pipeline, report, surroundings down.

What `agentflow run` and deployments call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from agentflow.access import Access
from agentflow.artifacts.files import storage_errors
from agentflow.artifacts.store import Store
from agentflow.errors import ConfigError
from agentflow.ledger import Mode
from flows.cluster import check_room, configured_address
from flows.estimating import estimates, lines
from flows.plan import decide, plan
from flows.recipes import Recipe
from flows.signals import terminable
from tasks.context import RunContext, placed_in
from tasks.making import Made
from tasks.resources import ResourcePlan, by_stage


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; no part of any fingerprint."""

    root: Path
    ledger_url: str | None = None
    # None: `<root>/ledger.db`.
    flow_run: str | None = None
    # Id of the deployed run that this is, which a Retry keeps; None: a run of its own, which nothing continues.
    mode: Mode = "record"
    budget_usd: float | None = None
    port: int | None = None
    # Of the Prefect server, if one is started; None picks a free one.
    cpus: int = 0
    # 0: all of this machine.
    ray_address: str | None = None
    # HOST:PORT or "auto"; None: RAY_ADDRESS, else a Ray of this run's own. One that does not answer ends the run.
    resources: ResourcePlan = ResourcePlan()
    metrics_port: int | None = None
    # Where Prometheus finds this run's numbers on 127.0.0.1; None: nowhere.


def context_of(recipe: Recipe, options: RunOptions, teacher_url: str | None, search_url: str | None) -> RunContext:
    """The run's surroundings as plain data."""
    root = options.root.absolute()
    access = Access(
        ledger_url=options.ledger_url or f"sqlite:///{root / 'ledger.db'}",
        run_id=uuid.uuid4().hex[:12],
        mode=options.mode,
        budget_key=None if options.budget_usd is None else purse_of(recipe, options.flow_run),
        teacher_url=teacher_url,
        search_url=search_url,
    )
    # The cores of this machine say nothing about the nodes of a cluster.
    stages = by_stage(1 if configured_address(options.ray_address) else cpus_of(options))
    # Set by `agentflow up` for its runs, and passed on to their Ray Jobs.
    batch_limit = os.environ.get("AGENTFLOW_BATCH_LIMIT") or None
    where = RunContext(root=root, recipe=recipe.name, access=access, batch_limit=batch_limit, **stages)
    return options.resources.apply(where)


def purse_of(recipe: Recipe, flow_run: str | None) -> str:
    """Name of the purse in the ledger that a budget of `recipe` limits; a Retry of `flow_run` goes on with the same.

    Raises ConfigError for a purse per run where no run is known that a Retry continues.
    """
    purse = f"recipe:{recipe.name}"
    if recipe.budget_per == "recipe":
        return purse
    if recipe.budget_per == "edition":
        return f"{purse}:edition:{recipe.edition}:{recipe.search_edition or recipe.edition}"
    if flow_run is None:
        raise ConfigError(
            "budget_per is 'run', but only a deployed run keeps its name when it is repeated: every start of this one "
            "would have the whole budget again; use 'edition' with an edition of its own, or 'recipe'"
        )
    return f"{purse}:run:{flow_run}"


def cpus_of(options: RunOptions) -> int:
    """Cores a run may use."""
    return options.cpus or len(os.sched_getaffinity(0))


def run(recipe: Recipe, options: RunOptions, console: Console) -> Path:
    """Make everything `recipe` names and write its report; returns the report's path.

    Raises what ended the run, after the report of what was made until then is written.
    """
    Store.open(options.root / "artifacts")  # an unwritable root is said before anything starts
    folder = options.root / recipe.name
    with storage_errors(f"make the folder {folder} of reports and progress"):
        folder.mkdir(exist_ok=True)
    nodes = plan(recipe, options.resources.training_workers)  # a missing file too
    for name, value in _quiet().items():
        os.environ.setdefault(name, value)

    from flows.display import Display
    from flows.local import local_services, prefect_server, ray_cluster
    from flows.metrics import serve_metrics
    from flows.reporting import RunWatch, open_run_ledger, work_and_report

    # Said as it is: a log file keeps paths and messages whole, a terminal wraps by itself, and brackets are no markup.
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    made: dict[str, Made] = {}
    with ExitStack() as stack:
        stack.enter_context(terminable())
        watch = stack.enter_context(RunWatch())
        teacher_url, search_url = stack.enter_context(local_services(recipe))
        where = context_of(recipe, options, teacher_url, search_url)
        open_run_ledger(where, options.budget_usd)
        asyncio.run(check_keys(recipe, where))
        decisions = decide(recipe, where.store(), where.training_workers)
        for line in lines(estimates(recipe, decisions, where.store(), where.access.ledger_url)):
            say(line)
        ray_up = partial(stack.enter_context, ray_cluster(cpus_of(options), options.ray_address))
        ui = stack.enter_context(prefect_server(options.root, options.port, meanwhile=ray_up))
        say(f"Prefect UI: {ui}")
        check_room(where, own=configured_address(options.ray_address) is None)

        def work() -> None:
            metrics = serve_metrics(options.metrics_port, where, made, say)
            with metrics, Display(nodes, made, where, console):
                _flow(recipe, where, made)

        return work_and_report(recipe, where, made, watch, work, say)


async def check_keys(recipe: Recipe, where: RunContext) -> None:
    """Open every client the run will need, which asks for nothing: a missing key is said before anything is paid."""
    decisions = decide(recipe, where.store(), where.training_workers)
    running = {decision.node.identity.stage for decision in decisions if not decision.reuse}
    with where.access.open_ledger() as ledger:
        asks = recipe.traces.origin == "teacher" and "traces" in running
        if asks or ("tool_insertion" in running and recipe.tool_insertion.lookups != "none"):
            async with where.access.open_teacher(recipe.teacher, ledger, recipe.edition):
                pass
        if running & {"tool_insertion", "grpo", "evaluate"}:
            async with where.access.open_toolbox(
                recipe.tools, recipe.search, recipe.search_edition or recipe.edition, ledger
            ):
                pass


def _quiet() -> dict[str, str]:
    from flows.local import QUIET

    return QUIET


def _flow(recipe: Recipe, where: RunContext, made: dict[str, Made]) -> None:
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.local import HEARTBEAT_S
    from flows.pipeline import pipeline
    from tasks.making import collected

    token = collected.set(made)
    try:
        # The tag is what the automations of `agentflow up` look for, the heartbeat what "zombie runs" counts on.
        alive = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_S})
        with _logs_in_the_ui_only(), alive, tags("agentflow"), placed_in(where):
            pipeline.with_options(flow_run_name=f"{recipe.name} {where.access.run_id}")(recipe)
    finally:
        collected.reset(token)


@contextmanager
def _logs_in_the_ui_only() -> Iterator[None]:
    """Logs of flow and task runs go to Prefect's UI; a terminal gets the display, and an error as one message."""
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
