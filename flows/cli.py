"""The command line: run, plan, show, diff, explain-row, recipes. Light at import, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), envvar="AGENTFLOW_ROOT", show_default=True,
    help="Folder of artifacts, ledger and reports.",
)  # fmt: skip
set_option = click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE",
    help="Change a field, e.g. --set sft.settings.optimiser.learning_rate=5e-4. Repeatable.",
)  # fmt: skip


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


@main.command()
@click.argument("recipe")
@set_option
@root_option
@click.option(
    "--budget-usd", type=click.FloatRange(min=0), help="Stop before paid calls could cost more than this in all."
)
@click.option(
    "--ledger", "ledger_url", envvar="AGENTFLOW_LEDGER", help="Ledger database URL.  [default: <root>/ledger.db]"
)
@click.option(
    "--mode", type=click.Choice(["record", "replay", "replay_or_fail"]), default="record", show_default=True,
    help="replay: use stored answers only, a missing one fails its row; replay_or_fail: a missing one stops the run.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the Prefect server if one is started.  [default: a free one]"
)
@click.option("--cpus", type=click.IntRange(min=1), default=None, help="Cores to use.  [default: all]")
def run(
    recipe: str, settings: tuple[str, ...], root: Path, budget_usd: float | None, ledger_url: str | None, mode: Any,
    port: int | None, cpus: int | None,
) -> None:  # fmt: skip
    """Run RECIPE (a name or a .yaml file) from questions to report; what is made already is reused."""
    from rich.console import Console

    from flows.recipes import load_recipe
    from flows.run import RunOptions
    from flows.run import run as run_recipe

    options = RunOptions(root=root, ledger_url=ledger_url, mode=mode, budget_usd=budget_usd, port=port, cpus=cpus or 0)
    report = run_recipe(load_recipe(recipe, settings), options, Console())
    from flows.summary import print_summary

    print_summary(report.with_suffix(".json"), Console())
    click.echo(f"report: {report}")


@main.command("plan")
@click.argument("recipe")
@set_option
@root_option
def plan_command(recipe: str, settings: tuple[str, ...], root: Path) -> None:
    """Say for every stage of RECIPE: reuse, or run, and because of which field."""
    from agentflow.artifacts.store import Store
    from flows.plan import decide
    from flows.recipes import load_recipe

    for decision in decide(load_recipe(recipe, settings), Store.open(root / "artifacts")):
        click.echo(decision.line())


@main.command()
@click.argument("artifact")
@root_option
@click.option(
    "--rows", "n_rows", type=click.IntRange(min=0), default=3, show_default=True, help="Sample rows to print."
)
def show(artifact: str, root: Path, n_rows: int) -> None:
    """Print an ARTIFACT's manifest and some rows.

    ARTIFACT is stage/fingerprint, the start of a fingerprint, or a path.
    """
    import json

    from agentflow.artifacts.store import Store

    found = Store.open(root / "artifacts").resolve(artifact)
    found.verify()
    manifest = found.manifest.model_dump(mode="json")
    click.echo(json.dumps(manifest, indent=1, ensure_ascii=True))
    if found.is_table:
        for row in found.dataset().select(range(min(n_rows, found.manifest.rows or 0))).to_list():
            click.echo(json.dumps(row, indent=1, ensure_ascii=True))


@main.command("diff")
@click.argument("a")
@click.argument("b")
@root_option
def diff_command(a: str, b: str, root: Path) -> None:
    """Compare two artifacts: configuration field by field, counts, rows."""
    from agentflow.artifacts.diff import diff
    from agentflow.artifacts.store import Store

    store = Store.open(root / "artifacts")
    for line in diff(store.resolve(a), store.resolve(b)).lines():
        click.echo(line)


@main.command("explain-row")
@click.argument("row_id")
@root_option
@click.option(
    "--ledger", "ledger_url", envvar="AGENTFLOW_LEDGER", help="Ledger database URL.  [default: <root>/ledger.db]"
)
def explain_row(row_id: str, root: Path, ledger_url: str | None) -> None:
    """Print the whole history of a row: question, teacher call, tool calls, losses, filter decision, versions."""
    from flows.explaining import explain_lines

    for line in explain_lines(row_id, root, ledger_url):
        click.echo(line)


@main.command()
def recipes() -> None:
    """List the built-in recipes."""
    from flows.recipes import RECIPES

    for name, make in sorted(RECIPES.items()):
        click.echo(f"{name:10} {(make.__doc__ or '').strip()}")


@main.command()
@root_option
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True)
def ui(root: Path, port: int) -> None:
    """Serve the Prefect UI over the runs recorded below ROOT, until Ctrl-C."""
    import signal

    from flows.local import prefect_server

    with prefect_server(root, port) as url:
        click.echo(f"Prefect UI: {url}   (Ctrl-C ends it)")
        try:
            signal.pause()
        except KeyboardInterrupt:
            click.echo("stopped")


if __name__ == "__main__":
    sys.exit(main())
