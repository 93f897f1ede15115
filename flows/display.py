"""The live display of `agentflow run`: stage, rows, calls, time left; read from progress files and the ledger, never
steering anything.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agentflow.progress import read_progress
from flows.plan import Node
from tasks.context import RunContext
from tasks.making import Made

REFRESH_S = 1.0


class Display:
    """A bar per stage of the plan while a run goes on; on a terminal live, otherwise a line whenever a stage ends."""

    def __init__(self, nodes: dict[str, Node], made: dict[str, Made], where: RunContext, console: Console) -> None:
        self._nodes, self._made, self._where, self._console = nodes, made, where, console
        self._live = console.is_terminal and sys.stdout.isatty()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:26}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=console, transient=False)
        self._tasks: dict[str, Any] = {}
        self._reported: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="display")
        self._started = time.time()

    def __enter__(self) -> Display:
        if self._live:
            self._bars.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._refresh()
        if self._live:
            self._bars.stop()

    def _watch(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._refresh()

    def _refresh(self) -> None:
        current = next((name for name in self._nodes if name not in self._made), None)
        for name in self._nodes:
            if name in self._made and name not in self._reported:
                self._finished(name)
        if current is not None and self._live:
            self._running(current)

    def _running(self, name: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None, note="")
        path = self._where.progress(name)
        # A file from an earlier run says nothing about this one.
        state = read_progress(path) if path.exists() and path.stat().st_mtime >= self._started else None
        if state is None:
            return
        note = str(state["note"]) or str(state["unit"])
        if name in ("traces", "tool_insertion"):
            with self._where.access.open_ledger() as ledger:
                note = ledger.meter()  # newer than what the stage wrote when a batch ended
        self._bars.update(self._tasks[name], completed=state["done"], total=state["total"], note=note)

    def _finished(self, name: str) -> None:
        self._reported.add(name)
        made = self._made[name]
        rows = "" if made.artifact.manifest.rows is None else f"{made.artifact.manifest.rows} rows"
        text = f"{made.status:7} {rows:>10} {made.wall_s:7.1f} s  {made.artifact.ref}"
        if not self._live:
            self._console.print(f"{name:26} {text}", highlight=False, soft_wrap=True)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=1, note="")
        total = self._bars.tasks[self._bars.task_ids.index(self._tasks[name])].total or 1
        self._bars.update(self._tasks[name], completed=total, total=total, note=text)
        self._bars.stop_task(self._tasks[name])
