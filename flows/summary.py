"""The end of `agentflow run`: seconds per stage, calls, and accuracy of every model, read from report.json."""

from __future__ import annotations

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_summary(report_json: Path, console: Console) -> None:
    """Print the tables a person wants to see first."""
    report = json.loads(report_json.read_text())
    title = f"{report['recipe']}: {report['wall_s']:.0f} s, peak {report['peak_rss_mb']:.0f} MB"
    stages = _table(title, ("stage", "status"), ("in", "out", "dropped", "failed", "seconds"))
    for stage in report["stages"]:
        dropped = sum((stage["dropped"] or {}).values())
        # A checkpoint has no rows, and a converted model has read none.
        counts = (str(n) if n else "" for n in (stage["rows_in"], stage["rows_out"], dropped, stage["failed"]))
        stages.add_row(stage["name"], stage["status"], *counts, f"{stage['wall_s']:.1f}")
    console.print(stages)
    ledger = report["ledger"]
    for kind in ("teacher", "search"):
        use = ledger[kind]
        console.print(
            f"{kind} calls: {use['paid']} paid, {use['replayed']} replayed, {use['failed']} failed", highlight=False
        )
    scores = _table(
        "held-out questions, tools executed", ("split", "kind", "model"), ("n", "accuracy", "95 %", "calls", "format")
    )
    for cell in report["evaluation_by"]:
        if not cell["best"]:
            continue
        low, high = cell["ci95"] or (0.0, 0.0)
        rates = [f"{cell[name]:.2f}" if cell[name] is not None else "" for name in ("tool_call_rate", "format_rate")]
        accuracy = "" if cell["accuracy"] is None else f"{cell['accuracy']:.3f}"
        model = cell["model"] if cell["prompt_style"] == "trained" else f"{cell['model']} ({cell['prompt_style']})"
        scores.add_row(
            cell["split"], cell["kind"], model, str(cell["questions"]), accuracy, f"{low:.2f}-{high:.2f}", *rates
        )
    console.print()
    console.print(scores)


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """Columns without lines between them: the names of splits, kinds and models fit into 80 characters unbroken."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in texts:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table
