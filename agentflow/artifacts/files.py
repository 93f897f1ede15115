"""Durable writing on a POSIX file system: what is visible is whole, and survives a crash of the machine.

In: paths. Out: checksums, synced folders, put-if-absent files, locks that die with their process. Errors of the
operating system (full disk, read-only, no permission) become a StoreError that says what to do. Object stores are not
handled here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from agentflow.artifacts.manifest import FileEntry
from agentflow.config import sha256_file
from agentflow.errors import AgentflowError, StoreError

_ADVICE = {
    errno.ENOSPC: "free space on that disk and run again",
    errno.EDQUOT: "the quota is used up; free space and run again",
    errno.EFBIG: "a limit on file sizes was reached (ulimit -f, or the disk is full); free space and run again",
    errno.EROFS: "the file system is read-only; choose another root",
    errno.EACCES: "this user may not write there; choose another root or mend the permissions",
    errno.EPERM: "this user may not write there; choose another root or mend the permissions",
    errno.EIO: "the disk reports errors; check it before running again",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an error of the operating system or of Arrow inside the block into a StoreError: `what`, cause, remedy."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "nothing was published; mend the cause and run again")
        raise StoreError(f"cannot {what}: {cause}{where}; {advice}") from error
    except pa.ArrowException as error:
        raise StoreError(f"cannot {what}: {error}; nothing was published") from error
    except Exception as error:
        # Libraries written in Rust (safetensors, tokenizers) raise errors of their own types, with the number in the
        # text, and Ray hands on a worker's error in a type of its own.
        number = _OS_ERROR.search(str(error))
        if isinstance(error, AgentflowError) or number is None:
            raise
        code = int(number[1] or number[2])
        advice = _ADVICE.get(code, "nothing was published; mend the cause and run again")
        raise StoreError(f"cannot {what}: {os.strerror(code)}; {advice}") from error


def sync(path: Path) -> None:
    """fsync a file or a folder (a folder's fsync makes its entries durable)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and fsync it."""
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def put_if_absent(path: Path, content: bytes) -> bool:
    """Make `path` appear at once with all of `content`, unless it is there already (then False)."""
    temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}.tmp"
    write_synced(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync(path.parent)
    return True


def entry_of(root: Path, path: Path) -> FileEntry:
    """Size and sha256 of a file as it stands, named relative to `root`."""
    return FileEntry(path=path.relative_to(root).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))


def sync_tree(folder: Path) -> list[FileEntry]:
    """fsync every file below `folder` and every folder from the inside out; the files' entries in order of path.

    Raises StoreError for anything that is neither a plain file nor a folder (a link would lead out of the artifact).
    """
    entries: list[FileEntry] = []
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(f"{path} is a link or a special file; an artifact holds plain files only")
        for name in names:
            sync(Path(parent, name))
            entries.append(entry_of(folder, Path(parent, name)))
        sync(Path(parent))
    return sorted(entries, key=lambda entry: entry.path)


@contextmanager
def lock_file(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock `path`; wait for whoever has it, calling `on_wait` once. The kernel frees it when we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait:
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def attempt_folder(attempts: Path, name: str) -> Iterator[Path]:
    """A fresh folder `<attempts>/<name>-<uuid>`, held by a lock and removed at the end unless it was renamed away.

    The lock on the folder itself tells a live attempt from the leftovers of a killed one, which are removed here.
    """
    attempts.mkdir(parents=True, exist_ok=True)
    _sweep(attempts)
    while True:
        folder = attempts / f"{name}-{uuid.uuid4().hex}"
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(descriptor)  # a sweeper was faster than our lock
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # best effort: what stays is invisible and swept by a later attempt
        os.close(descriptor)


def _sweep(attempts: Path) -> None:
    """Remove the attempts of processes that are gone."""
    for folder in attempts.iterdir():
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its owner has just published or removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
