"""The command line: run, plan, recipes, ui, up, doctor, promote, export; with those of cli_inspection.py.

Light at import, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flows.cli_inspection import diff_command, explain_row, show, show_tokens
from flows.cli_options import budget_option, ledger_option, resources_option, root_option, set_option


class Commands(click.Group):
    """Prints our own errors as one message, exit code 2 (input) or 1 (the run failed); others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from agentflow.errors import AgentflowError, UserError

        try:
            return super().invoke(ctx)
        except AgentflowError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2 if isinstance(error, UserError) else 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="agentflow")
def main() -> None:
    """Turn question sets into tool-using reasoning models: questions, traces, tool insertion, loss filter, SFT, cold
    start, GRPO, report.
    """


for command in (show, diff_command, explain_row, show_tokens):
    main.add_command(command)


@main.command()
@click.argument("recipe")
@set_option
@root_option
@budget_option
@ledger_option
@click.option(
    "--mode", type=click.Choice(["record", "replay", "replay_or_fail"]), default="record", show_default=True,
    help="replay: use stored answers only, a missing one fails its row; replay_or_fail: a missing one stops the run.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the Prefect server if one is started.  [default: a free one]"
)
@click.option("--cpus", type=click.IntRange(min=1), default=None, help="Cores to use.  [default: all]")
@resources_option
@click.option(
    "--ray-address", envvar="RAY_ADDRESS", metavar="HOST:PORT",
    help="Ray cluster to use, or `auto` on one of its nodes.  [default: a Ray of its own]",
)  # fmt: skip
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), envvar="AGENTFLOW_METRICS_PORT",
    help="Serve the run's numbers to Prometheus on this port of 127.0.0.1.",
)  # fmt: skip
def run(
    recipe: str, settings: tuple[str, ...], root: Path, budget_usd: float | None, ledger_url: str | None, mode: Any,
    port: int | None, cpus: int | None, resources_file: Path | None, ray_address: str | None,
    metrics_port: int | None,
) -> None:  # fmt: skip
    """Run RECIPE (a name or a .yaml file) from questions to report; what is made already is reused."""
    from rich.console import Console

    from flows.recipes import load_recipe
    from flows.run import RunOptions
    from flows.run import run as run_recipe
    from tasks.resources import ResourcePlan, load_resources

    options = RunOptions(
        root=root, ledger_url=ledger_url, mode=mode, budget_usd=budget_usd, port=port, cpus=cpus or 0,
        ray_address=ray_address, metrics_port=metrics_port,
        resources=load_resources(resources_file) if resources_file else ResourcePlan(),
    )  # fmt: skip
    report = run_recipe(load_recipe(recipe, settings), options, Console())
    from flows.summary import print_summary

    print_summary(report.with_suffix(".json"), Console())
    click.echo(f"report: {report}")


@main.command()
@click.argument("recipe")
@set_option
@root_option
@click.option(
    "--jobs", envvar="AGENTFLOW_JOBS", required=True, metavar="URL", help="The cluster's job server, http://HEAD:8265."
)
@budget_option
@click.option(
    "--resources", type=click.Path(), metavar="FILE", help="YAML file that says what each stage may use; on all nodes."
)
def submit(
    recipe: str, settings: tuple[str, ...], root: Path, jobs: str, budget_usd: float | None, resources: str | None
) -> None:
    """Run RECIPE as a Ray Job of a cluster that sees ROOT, and wait for it; a second call finds the job of the first.

    Ctrl-C stops the job, SIGTERM leaves it running. The ledger's address and the keys are taken from the environment
    of the cluster's nodes.
    """
    import logging

    from flows.ray_jobs import make_on_cluster, run_command
    from flows.recipes import load_recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command = run_command(recipe, settings, root, resources=resources, budget_usd=budget_usd)
    log = logging.getLogger("agentflow")
    click.echo(make_on_cluster(load_recipe(recipe, settings), command, jobs, root, log, resources))


@main.command("plan")
@click.argument("recipe")
@set_option
@root_option
@ledger_option
@click.option(
    "--gpu", default="H100", show_default=True, help="H100, H200, A100-80, L40S or RTX4090: sizes are for it."
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs of a training.")
@resources_option
@click.option(
    "--row-tokens", type=click.IntRange(min=1), default=400, show_default=True, help="Mean length of a training row."
)
def plan_command(
    recipe: str, settings: tuple[str, ...], root: Path, ledger_url: str | None, gpu: str, workers: int,
    resources_file: Path | None, row_tokens: int,
) -> None:  # fmt: skip
    """Say what RECIPE would do and take: for every stage reuse, or run, and because of which field; what the paid calls
    will cost; parameters, memory and hours on a GPU.
    """
    from agentflow.artifacts.store import Store
    from flows.estimating import estimates, lines
    from flows.plan import decide, missing_revision
    from flows.recipes import load_recipe
    from flows.sizing import gpu_called, size_lines
    from tasks.resources import workers_in

    chosen, store, card = load_recipe(recipe, settings), Store.open(root / "artifacts"), gpu_called(gpu)
    if message := missing_revision(chosen):
        click.echo(f"stages cannot be planned yet: {message}")
        stages = ["sft", "cold_start", "grpo", "evaluate"]
    else:
        decisions = decide(chosen, store, workers_in(resources_file))
        stages = [decision.node.identity.stage for decision in decisions if not decision.reuse]
        for decision in decisions:
            click.echo(decision.line())
        for line in lines(estimates(chosen, decisions, store, ledger_url or str(root / "ledger.db"))):
            click.echo(line)
    for line in size_lines(chosen, card, stages, workers, row_tokens):
        click.echo(line)


@main.command("review")
@click.argument("recipe")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@set_option
@root_option
def review_command(recipe: str, file: Path, settings: tuple[str, ...], root: Path) -> None:
    """Write the samples a cold start of RECIPE would train on to FILE, one a line, for a person to judge.

    Set each line's verdict to accept, edit or reject, then run with --set cold_start.review=FILE.
    """
    from flows.reviewing import write

    click.echo(write(recipe, settings, root, file))


@main.command()
def recipes() -> None:
    """List the built-in recipes."""
    from flows.recipes import RECIPES

    for name, make in sorted(RECIPES.items()):
        click.echo(f"{name:16} {(make.__doc__ or '').strip()}")


@main.command()
@root_option
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 4200]")
def ui(root: Path, port: int | None) -> None:
    """Serve the Prefect UI over the runs recorded below ROOT, until Ctrl-C."""
    import signal

    from flows.local import USUAL_PORT, prefect_server

    with prefect_server(root, port, usual_port=USUAL_PORT) as url:
        click.echo(f"Prefect UI: {url}   (Ctrl-C ends it)")
        try:
            signal.pause()
        except KeyboardInterrupt:
            click.echo("stopped")


@main.command("up")
@root_option
@click.option("--port", type=click.IntRange(1, 65535), help="Of the Prefect server.  [default: 4200]")
@click.option("--cpus", type=click.IntRange(min=1), default=None, help="Cores of the local Ray.  [default: all]")
@click.option(
    "--database-url", envvar="PREFECT_API_DATABASE_CONNECTION_URL",
    help="PostgreSQL of the Prefect server, postgresql+asyncpg://...  [default: SQLite below the root]",
)  # fmt: skip
@click.option(
    "--deployments", "prefect_file", type=click.Path(path_type=Path), help="Another file than deployments/prefect.yaml."
)
@click.option("--batches", type=click.IntRange(min=1), default=8, show_default=True, help="Paid batches at once.")
@click.option("--runs", type=click.IntRange(min=1), default=4, show_default=True, help="Flow runs at once.")
def up_command(
    root: Path, port: int | None, cpus: int | None, database_url: str | None, prefect_file: Path | None, batches: int,
    runs: int,
) -> None:  # fmt: skip
    """Start Prefect server, Ray, worker and deployments on this machine, until Ctrl-C or SIGTERM."""
    from rich.console import Console

    from flows.up import UpOptions, up

    options = UpOptions(
        root=root, port=port, cpus=cpus or 0, database_url=database_url, prefect_file=prefect_file,
        batch_limit=batches, runs=runs,
    )  # fmt: skip
    up(options, Console())


@main.command()
@root_option
@click.argument("recipe", default="demo")
@set_option
@click.option("--call", is_flag=True, help="Also ask each configured endpoint one cheap question (it may be billed).")
def doctor(root: Path, recipe: str, settings: tuple[str, ...], call: bool) -> None:
    """Check what RECIPE needs on this machine and say how to mend it; exit code 1 if something is missing."""
    from flows.doctor import examine
    from flows.recipes import load_recipe

    findings = examine(load_recipe(recipe, settings), root, call=call)
    for finding in findings:
        click.echo(finding.line())
    sys.exit(any(finding.verdict == "missing" for finding in findings))


@main.command()
@click.argument("recipe")
@set_option
@root_option
@click.option("--data-only", is_flag=True, help="Judge the data set alone, where no model was trained.")
@click.option("--force", is_flag=True, help="Promote although rules do not hold; wants --why.")
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the history.")
@resources_option
def promote(
    recipe: str, settings: tuple[str, ...], root: Path, data_only: bool, force: bool, why: str,
    resources_file: Path | None,
) -> None:  # fmt: skip
    """Put what RECIPE made through the gate: promoted if its rules hold, else kept aside (exit code 1)."""
    import shlex

    from flows.promoting import gate_and_promote
    from flows.recipes import load_recipe
    from tasks.resources import workers_in

    command = shlex.join(["agentflow", "run", recipe, *(word for text in settings for word in ("--set", text))])
    verdict = gate_and_promote(
        load_recipe(recipe, settings), root, what="data" if data_only else "full", force=force, why=why,
        command=command, workers=workers_in(resources_file),
        on_wait=lambda: click.echo("another promotion of this recipe goes on; waiting for it", err=True),
    )  # fmt: skip
    for line in verdict.lines():
        click.echo(line)
    sys.exit(not verdict.promoted)


@main.command()
@click.argument("recipe")
@root_option
@click.option("--to", "number", type=click.IntRange(min=1), help="Promotion to bring back.  [default: the one before]")
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the history.")
def rollback(recipe: str, root: Path, number: int | None, why: str) -> None:
    """Bring back the promotion of RECIPE that counted before the current one."""
    from flows.promoting import recipe_name
    from flows.promoting import rollback as roll_back

    entry = roll_back(recipe_name(recipe), root, to=number, why=why)
    click.echo(f"promotion {entry.replaced} is rolled back; {entry.restores}, edition {entry.edition}, counts again")


@main.command()
@click.argument("recipe")
@root_option
def history(recipe: str, root: Path) -> None:
    """Print every decision about RECIPE, oldest first, and what is promoted now."""
    from flows.promoting import history_lines, recipe_name

    for line in history_lines(recipe_name(recipe), root):
        click.echo(line)


@main.command("export")
@click.argument("artifact")
@click.option("--to", type=click.Choice(["parquet", "jsonl", "hub"]), required=True, help="hub: needs HF_TOKEN.")
@click.argument("destination")
@root_option
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), metavar="FILE",
    help="YAML file of licences, terms, allowed, refused, refuse_together, allow_unknown.",
)  # fmt: skip
def export_command(artifact: str, to: Any, destination: str, root: Path, policy_file: Path | None) -> None:
    """Write an ARTIFACT to the new folder DESTINATION, or to the repository DESTINATION of the hub.

    Every row says its teacher, terms, source and licence; a mix that the policy forbids is refused.
    """
    from flows.exporting import export, load_policy

    for line in export(artifact, root, to, destination, load_policy(policy_file)):
        click.echo(line)


if __name__ == "__main__":
    sys.exit(main())
