"""The history on disk: what it says after which decisions, and that it never guesses."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentflow.artifacts.manifest import sealed
from agentflow.errors import HistoryDamaged, InputError, StoreError
from agentflow.promotion.history import ENTRY, Entry, History, before, rolled_back, standing
from agentflow.promotion.night import ArtifactRef

REF = ArtifactRef(stage="loss_filter", fingerprint="f" * 16, digest="d" * 64, rows=3)


def entry(action: str = "promoted", **changed: Any) -> Entry:
    fields = {
        "number": 0, "recipe": "smoke", "action": action, "edition": "1", "model": "grpo",
        "artifacts": {"loss_filter": REF}, "at": "2026-01-31T02:00:00+00:00", "by": "night", "code_version": "0",
    }  # fmt: skip
    return Entry.model_validate({**fields, **changed})


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path, "smoke")


def add(history: History, *entries: Entry) -> None:
    with history.lock():
        for one in entries:
            history.append(one, {"DATASET_CARD.md": f"card of {one.edition}\n"})


def test_an_entry_is_read_back_with_its_number_its_chain_and_its_cards(history):
    assert history.read() == []
    add(history, entry(), entry(edition="2"))
    first, second = history.read()
    assert (first.number, second.number, first.previous) == (1, 2, "")
    assert len(second.previous) == 64
    assert (history.folder_of(second) / "DATASET_CARD.md").read_text() == "card of 2\n"


def test_what_is_promoted_follows_from_the_decisions():
    def numbered(*actions: dict[str, Any]) -> list[Entry]:
        return [entry(**{"number": number, **fields}) for number, fields in enumerate(actions, start=1)]

    assert standing([]).data is None
    entries = numbered(
        {}, {"action": "kept_aside"}, {"action": "forced"}, {"model": None},  # 4: a night of data alone
        {"action": "rolled_back", "restores": 3, "replaced": 4},
        {"action": "rolled_back", "restores": 1, "replaced": 3},
        {"action": "rolled_back", "restores": 4, "replaced": 1},
    )  # fmt: skip
    stood = [standing(entries[:n]).numbers for n in range(1, 8)]
    assert [(s.data, s.model) for s in stood] == [(1, 1), (1, 1), (3, 3), (4, 3), (3, 3), (1, 1), (4, 3)]
    assert [before(entries, entries[n - 1]) and before(entries, entries[n - 1]).number for n in (1, 3, 4)] == [
        None,
        1,
        3,
    ]
    assert set(rolled_back(entries[:6])) == {4, 3} and set(rolled_back(entries)) == {3, 1}


def corrupt(history: History, how: str) -> None:
    first, second = (history.folder / f"{n:06d}" for n in (1, 2))
    content = (second / ENTRY).read_text()
    if how == "torn":
        (second / ENTRY).write_text(content[: len(content) // 2])
    elif how == "edited":
        (second / ENTRY).write_text(content.replace('"night"', '"mallory"'))
    elif how == "sealed anew":  # a whole entry, but not the one that stood there when the third was written
        fields = json.loads(content)
        del fields["checksum"]
        (second / ENTRY).write_text(sealed({**fields, "by": "mallory"}))
    elif how == "gap":
        shutil.rmtree(second)
    elif how == "moved":
        shutil.rmtree(first)
        second.rename(first)
    elif how == "card":
        (second / "DATASET_CARD.md").write_text("card of 1\n")
    elif how == "no card":
        (second / "DATASET_CARD.md").unlink()
    elif how == "no entry":
        (second / ENTRY).unlink()
    elif how == "foreign":
        (history.folder / "notes.txt").write_text("mine")


HOWS = ("torn", "edited", "sealed anew", "gap", "moved", "card", "no card", "no entry", "foreign")


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_history_is_an_error_that_names_the_file_and_nothing_is_added(history, how):
    add(history, entry(), entry(edition="2"), entry(edition="3"))
    corrupt(history, how)
    with pytest.raises(HistoryDamaged, match="nothing is") as caught:
        history.read()
    assert str(history.folder) in str(caught.value) and "backup" in str(caught.value)
    count = len(list(history.folder.iterdir()))
    with pytest.raises(HistoryDamaged), history.lock():
        history.append(entry(), {})
    assert len(list(history.folder.iterdir())) == count


def test_a_rollback_to_the_future_is_damage(history):
    add(history, entry(), entry("rolled_back", restores=7, replaced=1, edition="2").model_copy(update={"restores": 1}))
    path = history.folder / "000002" / ENTRY
    fields = json.loads(path.read_text())
    del fields["checksum"]
    path.write_text(sealed({**fields, "restores": 2}))
    with pytest.raises(HistoryDamaged, match="restores entry 2"):
        history.read()


def test_a_killed_writer_leaves_nothing_that_counts(history):
    add(history, entry())
    dead = history.folder / ".attempts" / "000002-dead"
    dead.mkdir()
    (dead / "DATASET_CARD.md").write_text("half")
    assert len(history.read()) == 1
    add(history, entry(edition="2"))
    assert [one.edition for one in history.read()] == ["1", "2"] and not dead.exists()


def test_many_writers_at_once_make_one_chain(history):
    def write(n: int) -> None:
        add(History(history.folder.parent.parent, "smoke"), entry(edition=str(n)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(12)))
    entries = history.read()
    assert [one.number for one in entries] == list(range(1, 13))
    assert sorted(int(one.edition) for one in entries) == list(range(12))


def test_names_that_are_no_folder_and_folders_that_cannot_be_written_are_said(tmp_path):
    with pytest.raises(InputError, match=r"'\.\./x' is no name of a recipe"):
        History(tmp_path, "../x")
    (tmp_path / "promoted").write_text("a file")
    with pytest.raises(StoreError, match="cannot lock the history"), History(tmp_path, "smoke").lock():
        pass
