"""Run as a program: `crash_driver.py <folder>`. Prints one JSON object with what happened in every scenario.

It forks children that commit a small stage (two batches, then the table) and are killed with SIGKILL at the N-th
operation on the file system, for every N; that commit at the same instant; and that meet a limit on file sizes.
A program of its own, because forking a test process full of other libraries' threads is unsafe.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.errors import StoreError
from agentflow.records import Outcomes, Reject
from agentflow.schemas import QUESTIONS

IDENTITY = Identity("questions", 1, {"seed": 7}, {})
KEYS = {"b0": range(4), "b1": range(4, 8)}
WATCHED = frozenset(
    {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "fcntl.flock", "shutil.rmtree"}
)


def outcomes_of(numbers: range) -> Outcomes:
    columns = dict.fromkeys(QUESTIONS.names, "x") | {"aliases": ["y"]}
    rows = [{**columns, "id": f"q{i}", "question": f"question {i}" * 20} for i in numbers if i % 4]
    rejects = [Reject(f"q{i}", "dropped", "wrong_answer", f"number {i}") for i in numbers if not i % 4]
    return Outcomes(rows, rejects, len(numbers), len(rows))


def run_stage(root: Path) -> dict[str, Any]:
    """As a stage does it: reuse the artifact, else reuse or make each batch, then commit."""
    store = Store.open(root)
    computed: list[str] = []
    with store.lock(IDENTITY.stage, IDENTITY.fingerprint):
        artifact = store.find_or_set_aside(IDENTITY.stage, IDENTITY.fingerprint)
        if artifact is None:
            parts: list[Outcomes] = []
            for key, numbers in KEYS.items():
                batch = store.find_batch(IDENTITY.stage, IDENTITY.fingerprint, key)
                if batch is None:
                    computed.append(key)
                    made = outcomes_of(numbers)
                    batch = store.commit_batch(IDENTITY.stage, IDENTITY.fingerprint, key, made, QUESTIONS)
                parts.append(batch.outcomes())
            whole = Outcomes(
                [row for part in parts for row in part.rows], [r for part in parts for r in part.rejects],
                sum(part.keys_in for part in parts), sum(part.keys_out for part in parts),
            )  # fmt: skip
            artifact = store.commit_table(IDENTITY, whole, QUESTIONS, recipe="crash")
        store.drop_batches(IDENTITY.stage, IDENTITY.fingerprint)
    return {"digest": artifact.manifest.digest, "rejects": len(artifact.rejects()), "computed": computed}


def commit_only(root: Path) -> dict[str, Any]:
    artifact = Store.open(root).commit_table(IDENTITY, outcomes_of(range(8)), QUESTIONS, recipe="race")
    return {"digest": artifact.manifest.digest, "created_at": artifact.manifest.created_at}


def start(work: Callable[[], Any], answer: Path) -> int:
    """Fork a child that writes what `work` returns to `answer`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        answer.write_text(json.dumps(work()))
        status = 0
    finally:
        os._exit(status)


def killed_at(nth: int, root: Path) -> None:
    """Arrange for SIGKILL at the `nth` operation on the file system below `root` (opening to read does not count)."""
    count = 0
    kill = os.kill
    fsync = os.fsync

    def tick() -> None:
        nonlocal count
        count += 1
        if count == nth:
            kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        below = event == "fcntl.flock" or (event in WATCHED and str(arguments[0]).startswith(str(root)))
        if below and not reads:
            tick()

    def counted_fsync(descriptor: int) -> None:
        tick()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def crash(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for nth in range(1, 1000):
        root, answer = folder / f"crash-{nth}", folder / f"crash-{nth}.json"
        root.mkdir()

        def work(nth: int = nth, root: Path = root) -> dict[str, Any]:
            killed_at(nth, root)
            return run_stage(root)

        _, status = os.waitpid(start(work, answer), 0)
        if not os.WIFSIGNALED(status):
            assert json.loads(answer.read_text())["digest"]
            return found
        store = Store(root)
        seen = store.find(IDENTITY.stage, IDENTITY.fingerprint)
        kept = [key for key in KEYS if store.find_batch(IDENTITY.stage, IDENTITY.fingerprint, key)]
        again = run_stage(root)
        left = sorted(path.name for path in (root / IDENTITY.stage / ".attempts").iterdir() if path.is_dir())
        found.append({"nth": nth, "seen": seen and seen.manifest.digest, "kept": kept, "left": left, **again})
    raise AssertionError("the stage never came to its end")


def at_once(folder: Path, name: str, work: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """Four processes do `work` on one root, released together by the closing of a pipe."""
    root = folder / name
    read_end, write_end = os.pipe()

    def released() -> dict[str, Any]:
        os.close(write_end)
        os.read(read_end, 1)
        return work(root)

    answers = [folder / f"{name}-{i}.json" for i in range(4)]
    children = [start(released, answer) for answer in answers]
    os.close(write_end)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0, 0, 0], statuses
    return [json.loads(answer.read_text()) for answer in answers]


def full_disk(folder: Path) -> dict[str, Any]:
    """Every limit on file sizes up to what the commit needs: an error each, nothing visible, the old one intact."""
    root = folder / "full"
    store = Store.open(root)
    old = store.commit_table(IDENTITY, outcomes_of(range(8)), QUESTIONS, recipe="full")
    new = Identity("questions", 1, {"seed": 8}, {})

    def commit_table() -> None:
        store.commit_table(new, outcomes_of(range(400)), QUESTIONS, recipe="full")

    def commit_batch() -> None:
        store.commit_batch(new.stage, new.fingerprint, "b", outcomes_of(range(400)), QUESTIONS)

    errors: list[str] = []
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 1000, 2000, 10_000, 50_000):
        for work in (commit_table, commit_batch):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                work()
            except StoreError as error:
                errors.append(str(error))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    visible = [artifact.fingerprint for artifact in store.list("questions")]
    hidden = (root / "questions/.attempts", root / "questions/.batches" / new.fingerprint)
    left = [path.name for folder in hidden for path in folder.iterdir()]
    old.verify()
    return {"errors": errors, "visible": visible, "old": old.fingerprint, "left": left, "rows": len(old.rows())}


def main() -> None:
    datasets.disable_progress_bars()
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        here = Path(scratch)
        undisturbed = run_stage(here / "undisturbed")
        answer = {
            "undisturbed": undisturbed,
            "crash": crash(here),
            "race": at_once(here, "race", commit_only),
            "race_left": sorted(p.name for p in (here / "race/questions").iterdir() if not p.name.startswith(".")),
            "race_attempts": len(list((here / "race/questions/.attempts").iterdir())),
            "locked": at_once(here, "locked", run_stage),
            "full": full_disk(here),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
