"""The history of a recipe's promotions on disk: append-only, atomic, durable; what is promoted follows from it alone.

    <root>/promoted/<recipe>/000001/entry.json        sealed by a checksum, chained to the entry before by its sha256
                             000001/DATASET_CARD.md   with sha256 in the entry
    <root>/promoted/<recipe>/.lock                    held by whoever decides

An entry is written elsewhere, synced, and renamed into place. Nothing is ever removed or rewritten. A gap, a torn or
edited entry, a file that is not ours: `HistoryDamaged`, never a guess. (Entries cut off at the end leave no trace here;
the chain proves the rest.)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from agentflow.artifacts.files import attempt_folder, lock_file, storage_errors, sync, sync_tree, write_synced
from agentflow.artifacts.manifest import FileEntry, sealed, unsealed
from agentflow.config import Frozen, sha256_file
from agentflow.errors import HistoryDamaged, InputError, StoreError
from agentflow.promotion.config import PromotionConfig
from agentflow.promotion.gate import Compared, GateResult
from agentflow.promotion.night import ArtifactRef

ENTRY = "entry.json"
_NUMBER = re.compile(r"\d{6}")
_RECIPE = re.compile(r"[a-z0-9][a-z0-9_-]*")
Action = Literal["promoted", "forced", "rolled_back", "kept_aside"]


class Entry(Frozen):
    """One decision."""

    number: int
    recipe: str
    action: Action
    # "forced": a person promoted it although the gate said no. "kept_aside": the gate said no, nothing else happened.
    edition: str
    model: str | None = None
    # Whose evaluation was judged; None for a night of data alone.
    artifacts: dict[str, ArtifactRef]
    # By node of the plan: the whole night, or the one that came back.
    gate: GateResult | None = None
    rules: PromotionConfig | None = None
    # What the gate said, and by which rules; None for a rollback.
    replaced: int | None = None
    # Number of the promotion that was current before.
    restores: int | None = None
    # Number of the promotion that a rollback brought back.
    at: str
    # ISO 8601 in UTC.
    by: str
    why: str = ""
    code_version: str
    files: tuple[FileEntry, ...] = ()
    # Cards beside it.
    previous: str = ""
    # sha256 of the entry.json before it; "" for the first.

    @property
    def promotes(self) -> bool:
        return self.action != "kept_aside"


class History:
    """All decisions about one recipe. `read` verifies them every time; `append` needs the lock."""

    def __init__(self, root: Path, recipe: str) -> None:
        """`root` is the run's root (`runs`). Raises InputError for a recipe's name that could be no folder."""
        if not _RECIPE.fullmatch(recipe):
            raise InputError(f"recipe {recipe!r} is no name of a recipe; give lower-case letters, digits, '_' and '-'")
        self.recipe = recipe
        self.folder = root / "promoted" / recipe

    @contextmanager
    def lock(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to decide; waits for whoever has it. Raises StoreError if the folder cannot be written."""
        with ExitStack() as stack:
            with storage_errors(f"lock the history {self.folder}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                sync(self.folder.parent)
                stack.enter_context(lock_file(self.folder / ".lock", on_wait))
            yield

    def read(self) -> list[Entry]:
        """All entries in order. Raises HistoryDamaged for anything that does not prove itself."""
        if not self.folder.is_dir():
            return []
        try:
            names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise StoreError(f"cannot read {self.folder}: {error.strerror}") from error
        entries: list[Entry] = []
        before = ""
        for number, name in enumerate(names, start=1):
            if name != f"{number:06d}":
                problem = f"entry {number:06d} is missing" if _NUMBER.fullmatch(name) else "it is no entry"
                raise self._damaged(self.folder / name, problem)
            entry, before = self._entry(number, before)
            entries.append(entry)
        return entries

    def folder_of(self, entry: Entry) -> Path:
        return self.folder / f"{entry.number:06d}"

    def append(self, entry: Entry, files: Mapping[str, str]) -> Entry:
        """Add `entry` (its number, chain and file list are filled in) with text `files` beside it. Hold the lock.

        Raises HistoryDamaged if the history is not whole, StoreError for a full or read-only disk; nothing visible is
        left behind then.
        """
        entries = self.read()
        number = len(entries) + 1
        last = self.folder / f"{number - 1:06d}" / ENTRY
        attempt = attempt_folder(self.folder / ".attempts", f"{number:06d}")
        with storage_errors(f"write entry {number} of {self.folder}"), attempt as folder:
            for name, text in files.items():
                write_synced(folder / name, text.encode())
            whole = entry.model_copy(
                update={
                    "number": number,
                    "files": tuple(sync_tree(folder)),
                    "previous": sha256_file(last) if entries else "",
                }
            )
            write_synced(folder / ENTRY, sealed(whole.model_dump(mode="json")).encode())
            sync(folder)
            os.rename(folder, self.folder / f"{number:06d}")
            sync(self.folder)
        return self.read()[-1]

    def _entry(self, number: int, before: str) -> tuple[Entry, str]:
        path = self.folder / f"{number:06d}" / ENTRY
        try:
            content = path.read_bytes()
            entry = Entry.model_validate(unsealed(content))
        except OSError as error:
            raise self._damaged(path, error.strerror or str(error)) from error
        except (ValidationError, ValueError, RecursionError) as error:
            raise self._damaged(path, str(error)) from error
        if (entry.number, entry.recipe) != (number, self.recipe):
            raise self._damaged(path, f"it is entry {entry.number} of {entry.recipe!r}")
        if entry.previous != before:
            raise self._damaged(path, "it was written behind another entry than the one that stands before it")
        if entry.action == "rolled_back" and not (entry.restores and entry.restores < number):
            raise self._damaged(path, f"it restores entry {entry.restores}, which does not stand before it")
        for card in entry.files:
            try:
                found = sha256_file(path.parent / card.path)
            except InputError as error:
                raise self._damaged(path.parent / card.path, str(error)) from error
            if found != card.sha256:
                raise self._damaged(path.parent / card.path, f"sha256 is {found}, the entry says {card.sha256}")
        return entry, hashlib.sha256(content).hexdigest()

    def _damaged(self, path: Path, cause: str) -> HistoryDamaged:
        return HistoryDamaged(
            f"{path} is damaged: {cause}. What is promoted for {self.recipe!r} cannot be said, so nothing is. Put the "
            f"file back from a backup; or move {str(self.folder)!r} away to begin a new history (no artifact is lost)"
        )


class Standing(NamedTuple):
    """What is promoted: the entry whose data set counts and the one whose model counts, often the same.

    A night of data alone promotes a data set and leaves the model as it is.
    """

    data: Entry | None
    model: Entry | None

    @property
    def numbers(self) -> Compared:
        return Compared(data=self.data and self.data.number, model=self.model and self.model.number)


def standing(entries: Sequence[Entry]) -> Standing:
    """What is promoted after all `entries`, from the first. A rollback brings back all that stood after the entry it
    restores.
    """
    after: list[Standing] = [Standing(None, None)]
    for entry in entries:
        now = after[-1]
        if entry.action == "rolled_back":
            assert entry.restores is not None and entry.restores < entry.number, "checked when it was read"
            now = after[entry.restores]
        elif entry.promotes:
            now = Standing(entry, entry if entry.model is not None else now.model)
        after.append(now)
    return after[-1]


def before(entries: Sequence[Entry], promotion: Entry) -> Entry | None:
    """The promotion that counted when `promotion` was made: where a rollback from it leads."""
    return standing(entries[: promotion.number - 1]).data


def rolled_back(entries: Sequence[Entry]) -> dict[int, Entry]:
    """Promotions that a rollback took away and nobody brought back: number -> the rollback."""
    gone: dict[int, Entry] = {}
    for entry in entries:
        if entry.action == "rolled_back":
            if entry.replaced is not None:
                gone[entry.replaced] = entry
            gone.pop(entry.restores or 0, None)
    return gone
