"""A table to a folder that others can use: `data/<stage>.parquet` or `.jsonl`, the card, and `export.yaml`.

In: an artifact, its store, a licence policy, a card. Out: a new folder that appears whole or not at all, readable by
`datasets.load_dataset(<folder>)`. Every row carries its own columns and those of `licences.COLUMNS`. An existing
destination is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.files import storage_errors, sync, sync_tree, write_synced
from agentflow.artifacts.store import Store
from agentflow.artifacts.tables import CHUNK_ROWS
from agentflow.errors import InputError
from agentflow.export.licences import FIELDS, LicencePolicy, Licences, Provenance, provenance

Format = Literal["parquet", "jsonl"]
EXPORT = "export.yaml"
# Not JSON: `datasets` would take it for rows.
CARD = "README.md"
# Where the hub looks for a card.


def export_table(
    artifact: Artifact, store: Store, destination: Path, form: Format, policy: LicencePolicy, card: str | None = None
) -> Licences:
    """Write the rows of `artifact` to the new folder `destination`; what they are made of is returned.

    Raises InputError if the destination is there or `artifact` holds no rows, LicenceRefused if the policy forbids the
    data set, CorruptArtifact or StoreError if it or an ancestor is damaged or gone, StoreError for a full disk.
    """
    if not artifact.is_table:
        raise InputError(
            f"{artifact.ref} holds files and no rows; export it with --to hub, or copy {str(artifact.path)!r}"
        )
    origin, licences = provenance(artifact, store, policy), Licences(policy)
    with new_folder(destination) as folder:
        (folder / "data").mkdir()
        path = folder / "data" / f"{artifact.stage}.{form}"
        write = _write_parquet if form == "parquet" else _write_jsonl
        write(
            path, _chunks(artifact, origin, licences), pa.schema([*artifact.table().schema, *FIELDS]).remove_metadata()
        )
        licences.check(artifact.ref)  # all rows are counted by now; nothing is visible yet
        write_synced(folder / EXPORT, yaml.safe_dump(_about(artifact, form, licences), sort_keys=False).encode())
        if card is not None:
            write_synced(folder / CARD, card.encode())
    return licences


class new_folder:
    """`with new_folder(path) as attempt`: what is written into `attempt` appears at `path` at the end, all at once.

    Raises InputError if `path` is there already; an error inside leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._attempt = self._path.parent / f".{self._path.name}-{uuid.uuid4().hex}.part"

    def __enter__(self) -> Path:
        if self._path.exists() or self._path.is_symlink():
            raise InputError(f"{str(self._path)!r} is there already; give a new folder, nothing is overwritten")
        with storage_errors(f"make {self._path}"):
            self._attempt.mkdir(parents=True)
        return self._attempt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            with storage_errors(f"write {self._path}"):
                if error is not None:
                    raise error
                sync_tree(self._attempt)
                os.rename(self._attempt, self._path)
                sync(self._path.parent)
        finally:
            shutil.rmtree(self._attempt, ignore_errors=True)  # gone after the rename; else a hidden leftover


def _chunks(artifact: Artifact, origin: Provenance, licences: Licences) -> Iterator[list[dict[str, Any]]]:
    for batch in artifact.table().to_batches(max_chunksize=CHUNK_ROWS):
        rows = []
        for row in batch.to_pylist():
            columns = origin.columns(row)
            licences.add(row["id"], columns)
            rows.append({**row, **columns})
        yield rows


def _write_parquet(path: Path, chunks: Iterator[list[dict[str, Any]]], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for rows in chunks:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _write_jsonl(path: Path, chunks: Iterator[list[dict[str, Any]]], schema: pa.Schema) -> None:
    with open(path, "x", encoding="utf-8") as stream:
        for rows in chunks:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _about(artifact: Artifact, form: Format, licences: Licences) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "artifact": artifact.ref,
        "digest": manifest.digest,
        "rows": manifest.rows,
        "format": form,
        "code_version": manifest.code_version,
        "licences": [{"what": name, "value": value, "rows": n} for (name, value), n in sorted(licences.counts.items())],
    }
