"""Live progress through small files: any process writes, the display (or a person with `cat`) reads.

Never an input to anything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from agentflow.artifacts.files import storage_errors


class Progress:
    """Progress of one stage; with `path` None every call does nothing (a stage in a notebook)."""

    def __init__(self, path: Path | None, unit: str) -> None:
        self._path, self._unit = path, unit

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how far the stage is; the file is replaced whole, so a reader never sees half of it.

        Raises StoreError if it cannot be written: then the disk is full or not writable, and nothing else could be.
        """
        if self._path is None:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        with storage_errors(f"write {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"done": done, "total": total, "unit": self._unit, "note": note}))
            os.replace(temporary, self._path)


def read_progress(path: Path) -> dict[str, Any] | None:
    """The last state written, None if there is none yet."""
    try:
        state = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state if isinstance(state, dict) else None
