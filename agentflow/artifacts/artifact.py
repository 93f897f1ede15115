"""A committed artifact: a folder, its manifest, and reading that verifies before it trusts.

In: `<root>/<stage>/<fingerprint>/`. Out: a Hugging Face dataset, rows, rejects or files whose size, sha256, row count
and schema agree with the manifest. It writes nothing.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agentflow import schemas
from agentflow.artifacts.manifest import MANIFEST, FileEntry, Manifest
from agentflow.artifacts.tables import iterate_rows, schema_hash
from agentflow.config import sha256_file
from agentflow.errors import CorruptArtifact, InputError, StoreError

if TYPE_CHECKING:  # `datasets` takes two seconds to import; a plan or a --help needs none of it
    from datasets import Dataset

REJECTS = "rejects"

_verified: dict[Path, tuple[Any, ...]] = {}
# Artifact folder to the stamps its files had when this process verified them.


class Artifact:
    """One committed output of a stage. Get it from `Store.find`, `Store.latest` or `Store.resolve`."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises CorruptArtifact for a damaged manifest, FileNotFoundError where there is none."""
        self.path = path
        self.manifest = Manifest.read(path / MANIFEST)

    def __repr__(self) -> str:
        return f"Artifact({self.ref})"

    @property
    def stage(self) -> str:
        return self.manifest.stage

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def ref(self) -> str:
        """`<stage>/<fingerprint>`: what the command line takes and shows."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def is_table(self) -> bool:
        """Whether it holds rows; checkpoints and reports hold files."""
        return self.manifest.schema_hash is not None

    def verify(self) -> None:
        """Raise CorruptArtifact naming the file unless sizes, sha256, row counts and schema agree with the manifest.

        Files whose inode, size and times are as at the last verification in this process are not read again.
        """
        stamps = tuple(self._stamp(entry) for entry in self.manifest.files)
        if _verified.get(self.path) == stamps:
            return
        for entry in self.manifest.files:
            try:
                found = sha256_file(self.path / entry.path)
            except InputError as error:
                raise self._corrupt(entry.path, str(error)) from error
            if found != entry.sha256:
                raise self._corrupt(entry.path, f"sha256 is {found}, the manifest says {entry.sha256}")
        if self.is_table:
            self._verify_table()
        _verified[self.path] = stamps

    def dataset(self) -> Dataset:
        """The table as a Hugging Face dataset, memory-mapped, after verification.

        Raises CorruptArtifact if it is damaged, StoreError if the artifact holds no table.
        """
        if not self.is_table:
            raise StoreError(f"{self.ref} holds files, not rows; its files: {[f.path for f in self.manifest.files]}")
        self.verify()
        return self._load(self.path)

    def table(self) -> pa.Table:
        """The rows as one memory-mapped Arrow table in order of `id`, after verification."""
        return self.dataset().data.table

    def rows(self) -> list[dict[str, Any]]:
        """All rows in order of `id`, after verification."""
        return list(iterate_rows(self.table()))

    def rejects_table(self) -> pa.Table | None:
        """The rejected input keys as a table of `schemas.REJECTS` in order of `key`, verified; None without any."""
        if not self.has_rejects:
            return None
        self.verify()
        return self._load(self.path / REJECTS).data.table

    def rejects(self) -> list[dict[str, Any]]:
        """The rejected input keys in order (`schemas.REJECTS`, `row` parsed from its JSON), after verification."""
        table = self.rejects_table()
        return [] if table is None else [{**row, "row": json.loads(row["row"])} for row in iterate_rows(table)]

    def file(self, name: str) -> Path:
        """The path of one of its files, after verification. Raises StoreError listing the files if there is none."""
        names = [entry.path for entry in self.manifest.files]
        if name not in names:
            raise StoreError(f"{self.ref} has no file {name!r}; its files: {names}")
        self.verify()
        return self.path / name

    def inner_table(self, folder: str) -> pa.Table:
        """The Arrow dataset that an artifact of files keeps in one of its folders, after verification."""
        self.verify()
        return self._load(self.path / folder).data.table

    @cached_property
    def has_rejects(self) -> bool:
        """Whether rejected keys are kept beside the rows."""
        return any(entry.path.startswith(f"{REJECTS}/") for entry in self.manifest.files) and self.is_table

    def moved_to(self, path: Path) -> Artifact:
        """This artifact after its folder was renamed to `path`; keeps that it was verified."""
        _verified[path] = _verified.pop(self.path)
        return Artifact(path)

    def _verify_table(self) -> None:
        data = self._load(self.path)
        if len(data) != self.manifest.rows:
            raise self._corrupt("data", f"{len(data)} rows, the manifest says {self.manifest.rows}")
        if schema_hash(data.data.schema) != self.manifest.schema_hash:
            raise self._corrupt("data", f"its columns are not those of the manifest: {data.column_names}")
        if self.has_rejects:
            schemas.check_columns(self.stage, self._load(self.path / REJECTS).data.schema, schemas.REJECTS)

    def _load(self, folder: Path) -> Dataset:
        from datasets import Dataset

        try:
            return Dataset.load_from_disk(str(folder))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._corrupt(str(folder.relative_to(self.path)), f"{type(error).__name__}: {error}") from error

    def _stamp(self, entry: FileEntry) -> tuple[int, int, int, int]:
        try:
            status = os.stat(self.path / entry.path)
        except OSError as error:
            raise self._corrupt(entry.path, error.strerror or str(error)) from error
        if status.st_size != entry.bytes:
            raise self._corrupt(entry.path, f"{status.st_size} bytes, the manifest says {entry.bytes}")
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _corrupt(self, name: str, cause: str) -> CorruptArtifact:
        return CorruptArtifact(
            f"{self.path / name} is damaged: {cause}; it is not used. Run the stage again: the artifact is then set"
            " aside and made anew"
        )
