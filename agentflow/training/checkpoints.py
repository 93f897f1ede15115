"""Checkpoints of an unfinished training: sealed when they are whole, verified before they are used.

In: the folders `checkpoint-<step>` that the trainer writes (adapter, optimiser, scheduler, RNG, state, rollouts).
Out: `checkpoint.json` inside each, written last, with the sha256 of every file. A folder without it, or with other
bytes than it names, is torn: it is set aside as `torn-...` and the one before is used. A whole one of another job, or
of another number of workers, is an error and stays where it is.

Checkpoints never leave the attempt; what is published is the adapter alone. Resume state is loaded by transformers with
`weights_only=True`; the one file it writes as a pickle of objects (`training_args.bin`) is removed before sealing.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agentflow.artifacts.files import lock_file, put_if_absent, storage_errors, sync_tree
from agentflow.artifacts.manifest import FileEntry, sealed, unsealed
from agentflow.config import sha256_file
from agentflow.errors import ConfigError, CorruptArtifact

_log = logging.getLogger(__name__)

SEAL = "checkpoint.json"
KEPT = 2
# Checkpoints on disk at a time: the newest, and the one before in case the newest turns out torn.
_NAME = re.compile(r"checkpoint-(\d+)")
_PICKLES = ("training_args.bin",)


class CheckpointSeal(BaseModel):
    """What stands in `checkpoint.json` (plus its checksum)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    # Optimiser steps done.
    workers: int
    # World size it was written with: RNG and data position exist once per worker.
    job: str = ""
    # Hash of the job that wrote it (training.ownership); "" in seals of versions that did not say.
    files: list[FileEntry]


@dataclass(frozen=True)
class Owner:
    """Who writes checkpoints and may go on from them."""

    workers: int
    job: str
    # Hash of its job.


def checkpoint_folder(trainer_out: Path, step: int) -> Path:
    """Where transformers' trainer, writing to `trainer_out`, keeps what it was after `step` optimiser steps."""
    return trainer_out / f"checkpoint-{step}"


def seal(folder: Path, step: int, owner: Owner) -> None:
    """Make `folder` a checkpoint that may be resumed from; durable when this returns.

    Raises StoreError if the disk is full or not writable.
    """
    with storage_errors(f"write checkpoint {folder}"):
        for name in _PICKLES:
            (folder / name).unlink(missing_ok=True)
        record = CheckpointSeal(step=step, workers=owner.workers, job=owner.job, files=sync_tree(folder))
        put_if_absent(folder / SEAL, sealed(record.model_dump(mode="json")).encode())


def verify(folder: Path) -> CheckpointSeal:
    """The checkpoint's own account of itself, after every byte was compared with it.

    Raises CorruptArtifact naming what is missing, changed or unexpected.
    """
    try:
        record = CheckpointSeal.model_validate(unsealed((folder / SEAL).read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{folder} is not a whole checkpoint: {error}") from error
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {SEAL}
    named = {entry.path for entry in record.files}
    if found != named:
        raise CorruptArtifact(f"{folder}: missing {sorted(named - found)}, unexpected {sorted(found - named)}")
    for entry in record.files:
        path = folder / entry.path
        if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
            raise CorruptArtifact(f"{path} does not have the bytes of its checkpoint's manifest")
    return record


def newest_verified(folder: Path, owner: Owner, latest: int | None = None) -> Path | None:
    """The newest whole checkpoint below `folder` (up to step `latest`, if given), None if there is none.

    Newer ones that are torn are set aside. Raises ConfigError if the newest whole one is not `owner`'s.
    """
    steps = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    for step in sorted((step for step in steps if latest is None or step <= latest), reverse=True):
        path = steps[step]
        try:
            record = verify(path)
        except CorruptArtifact as error:
            _log.warning("set aside, an older checkpoint is used: %s", error)
            path.rename(folder / f"torn-{path.name}-{uuid.uuid4().hex[:8]}")
        else:
            _check_owner(path, record, owner)
            return path
    return None


def _check_owner(path: Path, record: CheckpointSeal, owner: Owner) -> None:
    """Raise ConfigError, and touch nothing, if a whole checkpoint is not `owner`'s."""
    anew = f"train into another folder, or remove {str(path.parent)!r} to begin anew"
    if record.workers != owner.workers:
        raise ConfigError(
            f"{str(path)!r} was written by {record.workers} workers and this training has {owner.workers}: a step "
            f"would hold other rows; give it {record.workers} (resources: workers; torchrun: --nproc-per-node), or "
            f"{anew}"
        )
    if record.job != owner.job:
        whose = "does not say whose it is (an earlier version wrote it)" if not record.job else "is another job's"
        raise ConfigError(
            f"{str(path)!r} {whose}: settings, data, base or adapter differ from this training's; give the job that "
            f"wrote it, or {anew}"
        )


@contextmanager
def attempt_lock(out: Path) -> Iterator[None]:
    """Held by rank 0 while it trains into `out`: a worker that outlived its killed driver must not write beside us."""
    if int(os.environ.get("RANK", "0")) != 0:
        yield
        return

    def waiting() -> None:
        _log.warning("another process still trains in %s; waiting for it to end", out)

    (out / "trainer").mkdir(parents=True, exist_ok=True)
    with lock_file(out / "trainer" / ".lock", waiting):
        yield
