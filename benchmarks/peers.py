"""Programs to measure, each a process: ours, and other projects' in virtual environments outside the repository.

In: a name and exact requirements. Out: the environment's python, made on the first call and kept under
`AGENTFLOW_BENCH_CACHE` (default: agentflow/benchmarks in the user's cache folder). Never touches our own environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
LONGEST_BUILD_S = 1200
LONGEST_JOB_S = 900


class NoPeer(Exception):
    """The environment cannot be made here; the message says why."""


class JobFailed(Exception):
    """A measured program ended with an error; the message is its last line."""


def json_of(command: Sequence[str], folder: str) -> dict[str, Any]:
    """The last line that `command` prints, a JSON object; its temporary files go to `folder`. Raises JobFailed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
    done = subprocess.run(
        command,
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=LONGEST_JOB_S,
        env={**environment, "TMPDIR": folder},
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise JobFailed(said[-1][:300] if said else f"exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def cache_folder() -> Path:
    """Where environments are kept."""
    given = os.environ.get("AGENTFLOW_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "agentflow" / "benchmarks"


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The python of an environment that holds `requirements` ("package==version"). Raises NoPeer."""
    wanted = "\n".join(requirements)
    folder = cache_folder() / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    except OSError as error:
        raise NoPeer(f"{name}: no environment in {folder.parent.name}: {error.strerror}") from error
    ready.write_text(wanted)
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_BUILD_S)
    except subprocess.TimeoutExpired:
        raise NoPeer(f"{' '.join(command[1:4])} took longer than {LONGEST_BUILD_S} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NoPeer(f"{' '.join(command[1:4])} failed: {said[-1][:300] if said else done.returncode}")
