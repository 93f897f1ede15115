"""Commands that print what is made already and change nothing: show, diff, explain-row, show-tokens.

Light at import, as flows/cli.py is, which adds them to the others.
"""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli_options import ledger_option, root_option


@click.command()
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

    found = Store.existing(root / "artifacts").resolve(artifact)
    found.verify()
    manifest = found.manifest.model_dump(mode="json")
    click.echo(json.dumps(manifest, indent=1, ensure_ascii=True))
    if found.is_table:
        for row in found.dataset().select(range(min(n_rows, found.manifest.rows or 0))).to_list():
            click.echo(json.dumps(row, indent=1, ensure_ascii=True))


@click.command("diff")
@click.argument("a")
@click.argument("b")
@root_option
def diff_command(a: str, b: str, root: Path) -> None:
    """Compare two artifacts: configuration field by field, counts, rows."""
    from agentflow.artifacts.diff import diff
    from agentflow.artifacts.store import Store

    store = Store.existing(root / "artifacts")
    for line in diff(store.resolve(a), store.resolve(b)).lines():
        click.echo(line)


@click.command("explain-row")
@click.argument("row_id")
@root_option
@ledger_option
def explain_row(row_id: str, root: Path, ledger_url: str | None) -> None:
    """Print the whole history of a row: question, teacher call, tool calls, losses, filter decision, versions."""
    from flows.explaining import explain_lines

    for line in explain_lines(row_id, root, ledger_url):
        click.echo(line)


@click.command("show-tokens")
@click.argument("row_id")
@root_option
def show_tokens(row_id: str, root: Path) -> None:
    """Print a training row's tokens in the colours of their roles; what is trained on is underlined."""
    from rich.console import Console

    from flows.tokens import token_text

    Console().print(token_text(row_id, root))
