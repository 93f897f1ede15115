"""The end of `agentflow run`: seconds per stage, calls, and accuracy of every model, read from report.json."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_summary(report_json: Path, console: Console) -> None:
    """Print the tables a person wants to see first."""
    report = json.loads(report_json.read_text())
    stages = Table(title=f"{report['recipe']}: {report['wall_s']:.0f} s, peak {report['peak_rss_mb']:.0f} MB")
    for column in ("stage", "status", "in", "out", "dropped", "seconds"):
        stages.add_column(column, justify="left" if column in ("stage", "status") else "right")
    for stage in report["stages"]:
        dropped = sum((stage["dropped"] or {}).values())
        cells = (stage["name"], stage["status"], stage["rows_in"], stage["rows_out"], dropped, f"{stage['wall_s']:.1f}")
        stages.add_row(*("" if cell is None else str(cell) for cell in cells))
    console.print(stages)
    ledger = report["ledger"]
    for kind in ("teacher", "search"):
        use = ledger[kind]
        console.print(
            f"{kind} calls: {use['paid']} paid, {use['replayed']} replayed, {use['failed']} failed", highlight=False
        )
    scores = Table(title="held-out questions, tools executed")
    for column in ("split", "kind", "model", "n", "accuracy", "95 %", "calls", "format"):
        scores.add_column(column)
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
    console.print(scores)
