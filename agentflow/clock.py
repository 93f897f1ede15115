"""Where time goes, by cause: what the worker processes of a run did, kept in small files beside its progress.

    generate    a model writes tokens
    tool_wait   every row of a batch waits for its tool
    limit_wait  a paid call waits for a limit of its service (Retry-After, requests a minute)
    train       optimiser steps, without the rollouts in them
    sync        weights are put where generation reads them

A second counts once per process and cause, however many calls are in it at once. Never an input to anything.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from agentflow.artifacts.files import storage_errors

Cause = Literal["generate", "tool_wait", "limit_wait", "train", "sync"]
CAUSES: tuple[Cause, ...] = ("generate", "tool_wait", "limit_wait", "train", "sync")
GENERATED = "tokens_generated"
# Counter of tokens that models of ours wrote.
WRITE_EVERY_S = 2.0


class Times:
    """Seconds by cause and counters of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._inside: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}

    @contextmanager
    def during(self, cause: Cause) -> Iterator[None]:
        """Count the length of the block; blocks of one cause that overlap count once."""
        with self._lock:
            if self._inside[cause] == 0:
                self._since[cause] = time.monotonic()
            self._inside[cause] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[cause] -= 1
                if self._inside[cause] == 0:
                    self._seconds[cause] += time.monotonic() - self._since.pop(cause)

    def add(self, cause: Cause, seconds: float) -> None:
        with self._lock:
            self._seconds[cause] += seconds

    def count(self, name: str, n: int) -> None:
        with self._lock:
            self._counts[name] += n

    def seconds(self) -> dict[str, float]:
        """Seconds by cause until now, blocks that are still open included."""
        with self._lock:
            now = time.monotonic()
            open_now = {cause: now - since for cause, since in self._since.items()}
            return {cause: self._seconds[cause] + open_now.get(cause, 0.0) for cause in {*self._seconds, *open_now}}

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


_here = Times()
_files: dict[Path, tuple[Path, Times]] = {}
# Progress file -> this process's file and times: a process that does several batches of a stage goes on in one file.


def here() -> Times:
    """The times that this process records now."""
    return _here


@contextmanager
def recording(progress: Path | None) -> Iterator[None]:
    """Record what happens inside for the stage of that progress file; None records nothing that anybody reads.

    Raises StoreError if the file cannot be written. One at a time in a process.
    """
    global _here
    if progress is None:
        yield
        return
    if progress not in _files:
        name = f"{progress.stem}-{uuid.uuid4().hex[:12]}.json"
        _files[progress] = (progress.parent.parent / "times" / name, Times())
    path, times = _files[progress]
    before, _here = _here, times
    stop = threading.Event()
    writer = threading.Thread(target=_write_until, args=(stop, path, progress.stem, times), daemon=True, name="clock")
    writer.start()
    try:
        yield
    finally:
        _here = before
        stop.set()
        writer.join()
        _write(path, progress.stem, times)


def _write_until(stop: threading.Event, path: Path, stage: str, times: Times) -> None:
    while not stop.wait(WRITE_EVERY_S):
        _write(path, stage, times)


def _write(path: Path, stage: str, times: Times) -> None:
    record = {"stage": stage, "seconds": times.seconds(), "counts": times.counts()}
    temporary = path.with_suffix(".tmp")
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record))
        os.replace(temporary, path)


def read_times(folder: Path, since: float = 0.0) -> dict[str, dict[str, dict[str, float]]]:
    """{stage: {"seconds": {cause: s}, "counts": {name: n}}}, summed over the processes that wrote below a recipe's
    folder since that time of day (seconds since the epoch).
    """
    stages: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted((folder / "times").glob("*.json")):
        try:
            if path.stat().st_mtime < since:
                continue
            record = json.loads(path.read_text())
        except (OSError, ValueError):  # it is being replaced just now; the next look sees it
            continue
        stage = stages.setdefault(record["stage"], {"seconds": {}, "counts": {}})
        for kind in ("seconds", "counts"):
            for name, value in record[kind].items():
                stage[kind][name] = round(stage[kind].get(name, 0) + value, 3)
    return stages
