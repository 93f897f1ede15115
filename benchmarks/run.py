"""`python -m benchmarks.run NAME`: runs one measured comparison, prints its table, writes its result file.

Comes in: a name, that is a module `benchmarks.<name>` with `rows() -> Iterator[Row]`. Goes out:
`benchmarks/results/<name>.json` and `benchmarks/README.md`, made anew from all result files; neither with reduced sizes
(`benchmarks.sizes`).
Exit code: 0 if every row that ran is ok, 1 if not, 2 for a name that cannot be run.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentflow.report.summary import finite
from benchmarks.machine import describe_commit, describe_machine
from benchmarks.row import Row
from benchmarks.sizes import quick

HERE = Path(__file__).resolve().parent
REGISTRY = {
    name: f"benchmarks.{name}"
    for name in ("main_job", "data", "train", "train_gpu", "reason_act", "evaluation", "mtr", "operations")
}


def main(arguments: Sequence[str] | None = None, registry: Mapping[str, str] = REGISTRY, folder: Path = HERE) -> int:
    """Run the benchmark named in `arguments`; result files and README go into `folder`. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if len(arguments) != 1 or arguments[0] not in registry:
        given = " ".join(arguments) or "nothing"
        print(f"Give one benchmark by name, not {given!r}: make bench NAME=<{'|'.join(registry)}>", file=sys.stderr)
        return 2
    name = arguments[0]
    if not _exists(registry[name]):
        written = [other for other, module in registry.items() if _exists(module)]
        print(
            f"Benchmark {name!r} is planned and not written yet (no module {registry[name]}); "
            f"there are: {', '.join(written) or 'none'}.",
            file=sys.stderr,
        )
        return 2
    rows = collect(registry[name])
    result = finite(
        {
            "name": name,
            "commit": describe_commit(folder),
            "machine": describe_machine(),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
    )
    if quick():
        print("Reduced sizes: nothing was measured and no result is written.")
    else:
        _write(folder / "results" / f"{name}.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        _write(folder / "README.md", readme(folder / "results"))
    Console().print(_table(name, rows))
    return 0 if all(row.ok for row in rows if row.ran) else 1


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def collect(module: str) -> list[Row]:
    """All rows of a benchmark module, each printed as it comes.

    A benchmark that raises, is interrupted (Ctrl-C), or gives no row, keeps what it measured and ends with a row that
    is not ok.
    """
    rows: list[Row] = []
    try:
        for row in importlib.import_module(module).rows():
            rows.append(row)
            print(f"{_verdict(row):8} {row.what}: {_measured(row)}", flush=True)
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        rows.append(Row.done("the benchmark runs to its end", "no error", "stopped", "", False, reason))
    if not rows:
        rows.append(
            Row.done("the benchmark measures something", "at least one row", 0, "rows", False, "it gave no row")
        )
    return rows


def _verdict(row: Row | Mapping[str, Any]) -> str:
    ok = row.ok if isinstance(row, Row) else row["ok"]
    return {True: "ok", False: "NOT OK", None: "not run"}[ok]


def _measured(row: Row | Mapping[str, Any]) -> str:
    value, unit = (row.measured, row.unit) if isinstance(row, Row) else (row["measured"], row["unit"])
    if value is None:
        return "–"
    text = (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
    return f"{text} {unit}".strip()


def _table(name: str, rows: Sequence[Row]) -> Table:
    table = Table(title=name, title_justify="left")
    for column in ("what", "target", "measured", "", "reason"):
        table.add_column(column, overflow="fold")
    colours = {True: "green", False: "bold red", None: "yellow"}
    for row in rows:
        verdict = Text(_verdict(row), style=colours[row.ok])
        table.add_row(Text(row.what), Text(row.target), Text(_measured(row)), verdict, Text(row.reason))
    return table


def readme(results: Path) -> str:
    """`benchmarks/README.md` from every result file, in the order of the registry."""
    order = list(REGISTRY)
    files = sorted(
        results.glob("*.json"), key=lambda path: (order.index(path.stem) if path.stem in order else 99, path.stem)
    )
    text = [
        "# Benchmarks",
        "Made by `make bench NAME=<name>` from `benchmarks/results/*.json`; do not edit. "
        "A number says what one run on one machine gave at one commit.",
    ]
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        text += [
            f"## {_cell(result['name'])}",
            f"Commit `{result['commit'][:12]}{'-dirty' if result['commit'].endswith('-dirty') else ''}` on "
            f"{_cell(machine['cpu'])}, {machine['cores']} cores, {machine['memory_gib']} GiB, {_cell(machine['os'])}, "
            f"Python {machine['python']}, torch {machine['torch']}.",
            "\n".join(
                ["| what | target | measured | | reason |", "|---|---|---|---|---|"]
                + [
                    f"| {_cell(row['what'])} | {_cell(row['target'])} | {_cell(_measured(row))} | {_verdict(row)} "
                    f"| {_cell(row['reason'])} |"
                    for row in result["rows"]
                ]
            ),
        ]
    return "\n\n".join(text) + "\n"


def _cell(value: Any) -> str:
    """`value` in one line that does not break a table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
