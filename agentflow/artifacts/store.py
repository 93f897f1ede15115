"""The artifact store: find by fingerprint, commit at once, never show half of anything.

In: identities, outcomes of stages, functions that write checkpoints. Out: artifacts in `<root>/<stage>/<fingerprint>/`.

    .attempts/<fp>-<uuid>/   written, synced, re-read; manifest last; then renamed to <fp>, the loser of a race reuses
    .batches/<fp>/           finished parts of an unfinished stage (`batches`)
    .locks/<fp>.lock         held while a stage runs, so that the same stage started twice computes once
    .corrupt/                damaged or discarded artifacts, out of the way but not gone

It does not decide what to run and deletes no artifact.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from agentflow import schemas
from agentflow.artifacts import batches
from agentflow.artifacts.artifact import REJECTS, Artifact
from agentflow.artifacts.files import attempt_folder, lock_file, storage_errors, sync, sync_tree, write_synced
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.manifest import MANIFEST, Counts, Manifest, code_version
from agentflow.artifacts.tables import build_table, rejects_table, schema_hash
from agentflow.errors import CorruptArtifact, InputError, StoreError
from agentflow.records import Outcomes

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
# Formats that run code when loaded; a published checkpoint is safetensors and JSON.


class Store:
    """All artifacts below one folder. `Store.open` makes and checks the folder; every other method trusts it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path | str) -> Store:
        """The store at `root`, made if absent. Raises InputError if it cannot be written there."""
        path = Path(root).expanduser().absolute()
        advice = "choose another root folder"
        if "::" in str(path) or "://" in str(path):
            raise InputError(f"store root {str(path)!r}: '::' and '://' would be read as a remote address; {advice}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path, prefix=".probe-") as probe:
                write_synced(Path(probe, "a"), b"probe")
                os.link(Path(probe, "a"), Path(probe, "b"))
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"store root {str(path)!r} is not a folder; {advice}") from error
        except OSError as error:
            raise InputError(
                f"store root {str(path)!r} cannot be written ({error.strerror}); it must be a folder on a POSIX file"
                f" system with hard links, writable for this user; mend that or {advice}"
            ) from error
        return cls(path)

    @classmethod
    def existing(cls, root: Path | str) -> Store:
        """The store at `root` to look at; nothing is written there. Raises InputError if there is none."""
        path = Path(root).expanduser().absolute()
        if not path.is_dir():
            raise InputError(f"there are no artifacts at {str(path)!r}; give the --root of the runs you mean")
        return cls(path)

    # ------------------------------------------------------------ finding
    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The verified artifact, None if there is none. Raises CorruptArtifact if it is damaged (then `set_aside`)."""
        path = self._path(stage, fingerprint)
        try:
            artifact = Artifact(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path / MANIFEST}: {error.strerror}") from error
        if (artifact.stage, artifact.fingerprint) != (stage, fingerprint):
            raise CorruptArtifact(f"{path} holds the artifact {artifact.ref}; it was moved or renamed")
        artifact.verify()
        return artifact

    def find_or_set_aside(self, stage: str, fingerprint: str) -> Artifact | None:
        """As `find`, but a damaged artifact is logged, set aside and counts as absent, so that it is made anew."""
        try:
            return self.find(stage, fingerprint)
        except CorruptArtifact as error:
            _log.warning("%s", error)
            self.set_aside(stage, fingerprint)
            return None

    def set_aside(self, stage: str, fingerprint: str) -> Path | None:
        """Move a damaged artifact to `.corrupt/`; None if there is none or another process has already mended it."""
        with self._publishing(stage, fingerprint):
            try:
                if self.find(stage, fingerprint) is not None:
                    return None
            except CorruptArtifact as error:
                _log.warning("%s/%s is set aside: %s", stage, fingerprint, error)
            return self._move_to_corrupt(stage, fingerprint)

    def discard(self, artifact: Artifact) -> Path | None:
        """Move an artifact to `.corrupt/`, damaged or not, so that its stage runs again; None if it is gone already."""
        with self._publishing(artifact.stage, artifact.fingerprint):
            return self._move_to_corrupt(artifact.stage, artifact.fingerprint)

    def stages(self) -> list[str]:
        """Names of the stages that have a folder here, in DAG order, then the others by name."""
        found = {path.name for path in self.root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)}
        known = [name for name in schemas.STAGES if name in found]
        return known + sorted(found - set(known))

    def list(self, stage: str) -> list[Artifact]:
        """The artifacts of `stage`, newest first. Unreadable ones are logged; contents are verified when read."""
        folder = self._stage(stage)
        found: list[Artifact] = []
        for path in folder.iterdir() if folder.is_dir() else ():
            if not _NAME.fullmatch(path.name) or not (path / MANIFEST).is_file():
                continue
            try:
                found.append(Artifact(path))
            except (CorruptArtifact, OSError) as error:
                _log.warning("skipped: %s", error)
        return sorted(found, key=lambda artifact: artifact.manifest.created_at, reverse=True)

    def latest(self, stage: str, recipe: str | None = None) -> Artifact | None:
        """The newest artifact of `stage` (made by `recipe`, if given) by its manifest; verified when read."""
        matching = (a for a in self.list(stage) if recipe is None or a.manifest.recipe == recipe)
        return next(matching, None)

    def resolve(self, ref: str) -> Artifact:
        """The one artifact meant by a path, `<stage>/<start of fingerprint>` or a unique start of a fingerprint.

        Raises InputError listing the candidates if there is none or more than one, CorruptArtifact for a damaged path.
        """
        if (Path(ref) / MANIFEST).is_file():
            return Artifact(Path(ref).absolute())
        stage, _, prefix = ref.rpartition("/")
        everything = [artifact for name in self.stages() for artifact in self.list(name)]
        matching = [a for a in everything if a.fingerprint.startswith(prefix) and stage in ("", a.stage)]
        if len(matching) == 1:
            return matching[0]
        problem = "means more than one artifact" if matching else "is no artifact"
        candidates = [a.ref for a in matching or everything][:20]
        raise InputError(
            f"{ref!r} {problem} in {str(self.root)!r}; give a path, <stage>/<fingerprint> or the start of a fingerprint"
            f"; candidates: {candidates}"
        )

    # ------------------------------------------------------------ committing
    def commit_table(
        self, identity: Identity, outcomes: Outcomes, schema: pa.Schema, *, recipe: str,
        cost: dict[str, Any] | None = None, wall_s: float = 0.0, extra: dict[str, Any] | None = None,
    ) -> Artifact:  # fmt: skip
        """Publish the rows and rejects of a stage as a Hugging Face dataset, or return the artifact that is there.

        Raises ConservationError if keys are unaccounted for, SchemaMismatch for other columns, StoreError naming the
        row for values or ids that cannot be stored and for a disk that is full or not writable. Nothing visible is
        left behind in any of these cases.
        """
        stage = identity.stage
        declared = schemas.STAGES.get(stage)
        if declared is not None and declared.writes is not None:
            schemas.check_columns(stage, schema, declared.writes)
        counts = Counts.of(outcomes)
        counts.check(outcomes.keys_in)
        table, digest = build_table(stage, outcomes.rows, schema)

        def write(folder: Path) -> None:
            _save_dataset(table, folder, digest)
            if outcomes.rejects:
                _save_dataset(rejects_table(outcomes.rejects), folder / REJECTS, digest)

        about = {
            "rows": table.num_rows, "keys_in": outcomes.keys_in, "counts": counts, "schema_hash": schema_hash(schema),
            "digest": digest, "recipe": recipe, "cost": cost or {}, "timings": {"wall_s": wall_s}, "extra": extra or {},
        }  # fmt: skip
        return self._commit(identity, write, about)

    def commit_files(
        self, identity: Identity, write: Callable[[Path], None], *, recipe: str, wall_s: float = 0.0,
        cost: dict[str, Any] | None = None, extra: dict[str, Any] | None = None,
        keys_in: int | None = None, counts: Counts | None = None,
    ) -> Artifact:  # fmt: skip
        """Publish what `write(folder)` puts into an empty folder (a checkpoint, a report), or return what is there.

        Raises StoreError for files that run code when loaded (`PICKLE_SUFFIXES`), links, no files at all, or a disk
        that is full or not writable; ConservationError if `counts` do not add up to `keys_in`. `write` should be
        cheap to repeat: it is called before the store knows whether another process was faster.
        """
        if counts is not None and keys_in is not None:
            counts.check(keys_in)

        def checked(folder: Path) -> None:
            write(folder)
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
            if not names or MANIFEST in names:
                raise StoreError(f"stage {identity.stage!r} must write files, none named {MANIFEST}; it wrote {names}")
            if pickles := sorted(name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES):
                raise StoreError(
                    f"stage {identity.stage!r} wrote {pickles}: they run code when loaded; save safetensors and JSON"
                )

        about = {
            "keys_in": keys_in, "counts": counts, "recipe": recipe, "cost": cost or {},
            "timings": {"wall_s": wall_s}, "extra": extra or {},
        }  # fmt: skip
        return self._commit(identity, checked, about)

    def commit_batch(
        self, stage: str, fingerprint: str, batch_key: str, outcomes: Outcomes, schema: pa.Schema,
        *, allow_failed: bool = False, extra: dict[str, Any] | None = None,
    ) -> batches.Batch:  # fmt: skip
        """Keep the outcomes of some keys of an unfinished stage, see `batches.write_batch`."""
        folder = self._batches(stage, fingerprint)
        return batches.write_batch(
            folder, stage, fingerprint, batch_key, outcomes, schema, allow_failed=allow_failed, extra=extra
        )

    def find_batch(self, stage: str, fingerprint: str, batch_key: str) -> batches.Batch | None:
        """The verified batch, None if it is absent or was damaged (then it is logged and set aside)."""
        return batches.read_batch(self._batches(stage, fingerprint), stage, fingerprint, batch_key)

    def batch_keys(self, stage: str, fingerprint: str) -> set[str]:
        """Keys of the batches that stand there, none of them read."""
        return {path.stem for path in self._batches(stage, fingerprint).glob("*.json")}

    def drop_batches(self, stage: str, fingerprint: str) -> None:
        """Remove the batches of a stage whose artifact is committed; StoreError if it is not."""
        if not (self._path(stage, fingerprint) / MANIFEST).is_file():
            raise StoreError(f"{stage}/{fingerprint} is not committed; its batches are still needed")
        with storage_errors(f"remove the batches of {stage}/{fingerprint}"):
            if self._batches(stage, fingerprint).is_dir():
                shutil.rmtree(self._batches(stage, fingerprint))

    @contextmanager
    def lock(self, stage: str, fingerprint: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to compute this artifact; blocks while another process or thread has it.

        `on_wait` is called once if there is something to wait for. Not re-entrant. Look for the artifact again after
        the lock was given: the other one has probably made it.
        """
        with ExitStack() as stack:
            with storage_errors(f"lock {stage}/{fingerprint}"):
                path = self._path(stage, fingerprint)
                stack.enter_context(lock_file(path.parent / ".locks" / f"{fingerprint}.lock", on_wait))
            yield

    # ------------------------------------------------------------ inside
    def _commit(self, identity: Identity, write: Callable[[Path], None], about: dict[str, Any]) -> Artifact:
        stage, fingerprint = identity.stage, identity.fingerprint
        target = self._path(stage, fingerprint)
        attempts = attempt_folder(target.parent / ".attempts", fingerprint)
        with storage_errors(f"write artifact {target}"), attempts as attempt:
            write(attempt)
            manifest = Manifest(
                stage=stage, version=identity.version, fingerprint=fingerprint, config=identity.config,
                inputs=identity.inputs, files=sync_tree(attempt), code_version=code_version(),
                created_at=datetime.now(UTC).isoformat(timespec="microseconds"), **about,
            )  # fmt: skip
            write_synced(attempt / MANIFEST, manifest.to_json().encode())
            sync(attempt)
            written = Artifact(attempt)
            written.verify()
            return self._publish(written, target)

    def _publish(self, written: Artifact, target: Path) -> Artifact:
        """Rename the attempt to its place. If a whole artifact stands there it is returned instead."""
        stage, fingerprint = written.stage, written.fingerprint
        with self._publishing(stage, fingerprint):
            try:
                winner = self.find(stage, fingerprint)
            except CorruptArtifact as error:
                _log.warning("%s", error)
                winner = None
            if winner is not None:
                if winner.manifest.digest != written.manifest.digest:
                    _log.warning("%s was made twice with different content; the first one is kept", winner.ref)
                return winner
            # Whatever else stands there has no manifest or is damaged. An empty folder rename replaces by itself.
            if target.is_file() or (target.is_dir() and any(target.iterdir())):
                self._move_to_corrupt(stage, fingerprint)
            os.rename(written.path, target)
            sync(target.parent)
        return written.moved_to(target)

    def _publishing(self, stage: str, fingerprint: str) -> Any:
        """Short lock around everything that moves an artifact folder (`lock` is held for as long as a stage runs)."""
        return lock_file(self._path(stage, fingerprint).parent / ".locks" / f"{fingerprint}.publish")

    def _move_to_corrupt(self, stage: str, fingerprint: str) -> Path | None:
        path = self._path(stage, fingerprint)
        aside = path.parent / ".corrupt" / f"{fingerprint}-{uuid.uuid4().hex}"
        with storage_errors(f"set {path} aside"):
            aside.parent.mkdir(exist_ok=True)
            try:
                os.rename(path, aside)
            except FileNotFoundError:
                return None
            sync(path.parent)
        return aside

    def _stage(self, stage: str) -> Path:
        if not _NAME.fullmatch(stage):
            raise StoreError(f"stage {stage!r} must be letters, digits, '_' or '-'")
        return self.root / stage

    def _path(self, stage: str, fingerprint: str) -> Path:
        if not _NAME.fullmatch(fingerprint):
            raise StoreError(f"fingerprint {fingerprint!r} must be letters and digits")
        return self._stage(stage) / fingerprint

    def _batches(self, stage: str, fingerprint: str) -> Path:
        return self._path(stage, fingerprint).parent / ".batches" / fingerprint


def _save_dataset(table: pa.Table, folder: Path, digest: str) -> None:
    """`Dataset.save_to_disk` without its progress bar; an empty table still gets its one file with the schema.

    `digest` names the content for datasets' own cache of what it maps from here.
    """
    import datasets

    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset = datasets.Dataset(table, fingerprint=digest[:32])
        dataset.save_to_disk(str(folder), num_shards=None if table.num_rows else 1)
    finally:
        if not quiet:
            datasets.enable_progress_bars()
