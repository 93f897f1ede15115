"""Benchmarks made of parts, and measurements in processes of their own.

A part is a module with `rows()` that can be run alone. A measurement is a module that, run with `python -m`, prints its
result as one line of JSON, the last: what it started (servers, Ray, library settings) ends with it and cannot colour
the next one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import LONGEST_S, execute, tail
from benchmarks.row import Row
from benchmarks.sizes import marked


def rows_of(parts: Sequence[str]) -> Iterator[Row]:
    """The rows of every part; one that fails ends as a row, and the others go on."""
    for part in parts:
        module = f"benchmarks.{part}"
        if importlib.util.find_spec(module) is None:
            yield Row.not_run(f"benchmark part {part}", "", "", f"there is no module {module}")
            continue
        try:
            yield from marked(importlib.import_module(module).rows())
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            yield Row.done(f"benchmark part {part} runs to its end", "no error", "stopped", "", False, reason)


def measured(module: str, arguments: Sequence[str], log: Path, longest_s: float = LONGEST_S) -> dict[str, Any]:
    """The last JSON line of `python -m module`. Raises RuntimeError with its last words if it failed."""
    print(f"running: {module} {' '.join(arguments)}   (output in {log})", flush=True)
    ran = execute([sys.executable, "-m", module, *arguments], log, longest_s=longest_s)
    if ran.code != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with {ran.code}: {tail(ran.output)}")
    results = [line for line in ran.output.splitlines() if line.startswith("{")]  # a library may say goodbye after it
    result: dict[str, Any] = json.loads(results[-1])
    return result
