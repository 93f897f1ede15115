"""Batches: finished parts of a stage that has not finished yet, so that a retry does only what is missing.

In: the outcomes of some input keys under a batch key. Out: `<root>/<stage>/.batches/<fingerprint>/<key>.json`, put
there at once and only if absent, naming and checksumming the Arrow files beside it. Files that no such JSON names are
the leftovers of a killed attempt and are never read. A batch is no artifact: only the stage sees it.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from agentflow.artifacts.files import entry_of, put_if_absent, storage_errors, sync
from agentflow.artifacts.manifest import Counts, FileEntry, sealed, unsealed
from agentflow.artifacts.tables import build_table, outcomes_of, rejects_table, schema_hash
from agentflow.config import sha256_file
from agentflow.errors import CorruptArtifact, StageIncomplete, StoreError
from agentflow.records import Outcomes

_log = logging.getLogger(__name__)
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")


class BatchManifest(BaseModel):
    """What stands in `<key>.json` (plus its checksum)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    fingerprint: str
    key: str
    keys_in: int
    counts: Counts
    n_rows: int
    schema_hash: str
    digest: str
    rows: FileEntry
    rejects: FileEntry
    extra: dict[str, Any] = {}


@dataclass(frozen=True)
class Batch:
    """A committed, verified batch."""

    folder: Path
    manifest: BatchManifest

    @property
    def key(self) -> str:
        return self.manifest.key

    def outcomes(self) -> Outcomes:
        """What was committed: rows in order of id, rejects in order of key. Raises CorruptArtifact if damaged since."""
        record = self.manifest
        try:
            rows = _read(self.folder, record.rows)
            rejects = _read(self.folder, record.rejects)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptArtifact(f"batch {self.key!r} in {self.folder} is damaged: {error}") from error
        if rows.num_rows != record.n_rows or schema_hash(rows.schema) != record.schema_hash:
            raise CorruptArtifact(f"batch {self.key!r} in {self.folder}: rows or columns are not those of its manifest")
        outcomes = outcomes_of(rows, rejects, record.keys_in, record.counts.out)
        return replace(outcomes, counts=dict(record.extra.get("counts", {})))


def write_batch(
    folder: Path, stage: str, fingerprint: str, key: str, outcomes: Outcomes, schema: pa.Schema,
    *, allow_failed: bool = False, extra: dict[str, Any] | None = None,
) -> Batch:  # fmt: skip
    """Commit `outcomes` under `key`, or return the batch that is there already.

    Raises StageIncomplete if keys failed (unless `allow_failed`): a failed key is to be asked again, and a committed
    batch never is. Raises ConservationError, SchemaMismatch and StoreError as the commit of an artifact does.
    """
    check_key(key)
    counts = Counts.of(outcomes)
    counts.check(outcomes.keys_in)
    if counts.failed and not allow_failed:
        cause = next(f"{reject.key}: {reject.detail}" for reject in outcomes.rejects if reject.status == "failed")
        raise StageIncomplete(
            f"stage {stage!r}, batch {key!r}: failed keys {counts.failed}, for example {cause}; it is not committed,"
            " run again to ask them",
            stage=stage,
            failed=counts.failed,
            cause=cause,
            missing=[(r.key, r.reason, r.detail) for r in outcomes.rejects if r.status == "failed"],
        )
    table, digest = build_table(stage, outcomes.rows, schema)
    unique = uuid.uuid4().hex
    data, rejected = folder / f"{key}-{unique}.arrow", folder / f"{key}-{unique}.rejects.arrow"
    with storage_errors(f"write batch {key!r} of stage {stage!r} in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            record = BatchManifest(
                stage=stage, fingerprint=fingerprint, key=key, keys_in=outcomes.keys_in, counts=counts,
                n_rows=table.num_rows, schema_hash=schema_hash(schema), digest=digest,
                rows=_write(folder, data, table), rejects=_write(folder, rejected, rejects_table(outcomes.rejects)),
                extra={**(extra or {}), **({"counts": outcomes.counts} if outcomes.counts else {})},
            )  # fmt: skip
            sync(folder)
            content = sealed(record.model_dump(mode="json"))
            while not put_if_absent(folder / f"{key}.json", content.encode()):
                winner = read_batch(folder, stage, fingerprint, key)
                if winner is not None:
                    _unlink(data, rejected)
                    return winner  # somebody else was first with the same work
        except BaseException:
            if not _names(folder / f"{key}.json", data.name):
                _unlink(data, rejected)
            raise
    return Batch(folder, record)


def read_batch(folder: Path, stage: str, fingerprint: str, key: str) -> Batch | None:
    """The committed batch, verified; None if there is none. A damaged one is logged, set aside and counts as absent."""
    check_key(key)
    path = folder / f"{key}.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        record = BatchManifest.model_validate(unsealed(content))
        if (record.stage, record.fingerprint, record.key) != (stage, fingerprint, key):
            raise ValueError(f"{path.name} describes {record.stage}/{record.fingerprint}/{record.key}")
        for entry in (record.rows, record.rejects):
            if sha256_file(folder / entry.path) != entry.sha256:
                raise ValueError(f"{entry.path} does not have the sha256 of its manifest")
        batch = Batch(folder, record)
        if _read(folder, record.rows).num_rows != record.n_rows:
            raise ValueError(f"{record.rows.path} does not have {record.n_rows} rows")
    except (ValueError, RecursionError, OSError, pa.ArrowException) as error:
        aside = folder / f"{key}-{uuid.uuid4().hex}.corrupt"
        _log.warning("batch %r of %s/%s is damaged and is made anew: %s", key, stage, fingerprint, error)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            _log.warning("batch %r was set aside by another process", key)
        return None
    return batch


def check_key(key: str) -> None:
    """Raise StoreError unless `key` is a harmless file name."""
    if not _KEY.fullmatch(key):
        raise StoreError(f"batch key {key!r} must be 1 to 120 of letters, digits, '_', '-', '.', not first '-' or '.'")


def _write(folder: Path, path: Path, table: pa.Table) -> FileEntry:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    sync(path)
    return entry_of(folder, path)


def _read(folder: Path, entry: FileEntry) -> pa.Table:
    with pa.memory_map(str(folder / entry.path)) as source:
        return pa.ipc.open_file(source).read_all()


def _names(manifest: Path, data: str) -> bool:
    """Whether a published batch manifest names `data` (its files must then stay)."""
    return manifest.exists() and data.encode() in manifest.read_bytes()


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
