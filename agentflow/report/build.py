"""RunRecord -> `<runs>/<recipe>/report.json` and `report.html`, each replaced whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from agentflow.errors import StoreError
from agentflow.report.model import RunRecord
from agentflow.report.page import render_page
from agentflow.report.summary import summarise_run


def build_report(run: RunRecord) -> None:
    """Write both files of `run` into `run.out_dir`, making the folder.

    Raises StoreError if it cannot be written; a previous report then stays as it was.
    """
    summary = summarise_run(run)
    page = render_page(run, summary)
    try:
        run.out_dir.mkdir(parents=True, exist_ok=True)
        _replace(run.out_dir / "report.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _replace(run.out_dir / "report.html", page)
    except OSError as error:
        raise StoreError(
            f"cannot write the report into {str(run.out_dir)!r}: {error.strerror}; "
            "make the folder writable or free space"
        ) from error


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8", errors="backslashreplace"))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
