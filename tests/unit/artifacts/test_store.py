"""Commit, find, refuse, set aside: what the store promises on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import datasets
import pytest

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.manifest import Counts
from agentflow.artifacts.store import Store
from agentflow.errors import ConservationError, CorruptArtifact, InputError, SchemaMismatch, StoreError
from agentflow.records import Outcomes, Reject
from agentflow.schemas import QUESTIONS, TRACES

Commit = Callable[..., Artifact]
Question = Callable[..., dict[str, Any]]


def folders(store: Store) -> list[str]:
    """What a reader could take for an artifact."""
    root = store.root / "questions"
    return sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) if root.is_dir() else []


# ---------------------------------------------------------------- commit and find
def test_a_committed_table_opens_as_a_hugging_face_dataset(commit: Commit, question: Question) -> None:
    artifact = commit(3, seed=1)
    loaded = datasets.load_from_disk(str(artifact.path))
    assert loaded.to_list() == [question(f"q{i}") for i in range(3)]
    assert artifact.rows() == loaded.to_list()
    assert loaded.data.schema.equals(QUESTIONS, check_metadata=False)


def test_the_committed_artifact_is_found_by_its_fingerprint(store: Store, commit: Commit) -> None:
    artifact = commit(3, seed=1)
    found = store.find("questions", Identity("questions", 1, {"seed": 1}, {}).fingerprint)
    assert found is not None
    assert found.manifest == artifact.manifest
    assert store.find("questions", "0" * 16) is None


def test_a_second_commit_reuses_the_first(store: Store, commit: Commit) -> None:
    first, second = commit(3, seed=1), commit(3, seed=1)
    assert second.manifest.created_at == first.manifest.created_at
    assert folders(store) == [first.fingerprint]
    assert list((store.root / "questions/.attempts").iterdir()) == []


def test_a_table_without_rows_is_an_artifact_too(commit: Commit) -> None:
    artifact = commit(0, seed=1)
    assert artifact.rows() == []
    assert artifact.rejects() == []
    assert datasets.load_from_disk(str(artifact.path)).column_names == QUESTIONS.names


def test_rejects_are_kept_beside_the_rows_with_their_reason(commit: Commit) -> None:
    rejects = [Reject("z", "dropped", "wrong_answer", "72 != 71", {"a": 1}), Reject("y", "quarantined", "no_answer")]
    artifact = commit(3, rejects=rejects, seed=1)
    assert [(one["key"], one["reason"], one["row"]) for one in artifact.rejects()] == [
        ("y", "no_answer", {}),
        ("z", "wrong_answer", {"a": 1}),
    ]
    assert artifact.manifest.counts == Counts(out=3, dropped={"wrong_answer": 1}, quarantined={"no_answer": 1})
    assert len(datasets.load_from_disk(str(artifact.path / "rejects"))) == 2
    assert len(artifact.rows()) == 3


def test_an_unaccounted_key_is_refused_and_leaves_nothing(store: Store, question: Question) -> None:
    outcomes = Outcomes([question("a")], [], keys_in=2, keys_out=1)
    with pytest.raises(ConservationError, match="2 keys in, but 1 out"):
        store.commit_table(Identity("questions", 1, {}, {}), outcomes, QUESTIONS, recipe="smoke")
    assert folders(store) == []


def test_a_stage_cannot_commit_the_table_of_another(store: Store) -> None:
    with pytest.raises(SchemaMismatch, match="stage 'questions'"):
        store.commit_table(Identity("questions", 1, {}, {}), Outcomes([]), TRACES, recipe="smoke")


# ---------------------------------------------------------------- files
def test_a_checkpoint_is_committed_with_all_its_files(store: Store) -> None:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer/tokenizer.json").write_text("{}")

    artifact = store.commit_files(Identity("sft", 1, {}, {}), write, recipe="smoke", extra={"loss": 1.5})
    assert artifact.file("tokenizer/tokenizer.json").read_text() == "{}"
    assert artifact.manifest.extra == {"loss": 1.5}
    assert artifact.manifest.digest is None
    with pytest.raises(
        StoreError, match=r"no file 'x'; its files: \['model.safetensors', 'tokenizer/tokenizer.json'\]"
    ):
        artifact.file("x")
    with pytest.raises(StoreError, match="holds files, not rows"):
        artifact.dataset()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "deep/rows.PKL"])
def test_a_checkpoint_with_a_file_that_runs_code_when_loaded_is_refused(store: Store, name: str) -> None:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")

    with pytest.raises(StoreError, match=name):
        store.commit_files(Identity("sft", 1, {}, {}), write, recipe="smoke")
    assert store.list("sft") == []


def test_a_link_out_of_the_artifact_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(StoreError, match="link"):
        store.commit_files(
            Identity("sft", 1, {}, {}), lambda folder: (folder / "a").symlink_to(tmp_path / "secret"), recipe="smoke"
        )


def test_a_checkpoint_without_files_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="must write files"):
        store.commit_files(Identity("sft", 1, {}, {}), lambda folder: None, recipe="smoke")


def test_a_writer_that_fails_leaves_nothing_and_its_error_comes_through(store: Store) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.commit_files(Identity("sft", 1, {}, {}), write, recipe="smoke")
    assert store.list("sft") == []
    assert list((store.root / "sft/.attempts").iterdir()) == []


# ---------------------------------------------------------------- damage
def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_the_tail(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize("damage", [cut, flip, zero_the_tail, Path.unlink])
@pytest.mark.parametrize(
    "name", ["data-00000-of-00001.arrow", "rejects/data-00000-of-00001.arrow", "state.json", "dataset_info.json"]
)
def test_a_damaged_file_is_refused_by_name_and_the_artifact_made_anew(
    store: Store, commit: Commit, name: str, damage: Callable[[Path], None]
) -> None:
    def make() -> Artifact:
        return commit(50, rejects=[Reject("z", "dropped", "x")], seed=1)

    whole = make()
    damage(whole.path / name)
    with pytest.raises(CorruptArtifact, match=name):
        store.find("questions", whole.fingerprint)
    with pytest.raises(CorruptArtifact, match="made anew"):
        whole.dataset()
    aside = store.set_aside("questions", whole.fingerprint)
    assert aside is not None
    assert aside.parent.name == ".corrupt"
    assert store.find("questions", whole.fingerprint) is None
    assert make().manifest.digest == whole.manifest.digest


def test_a_shard_cut_at_any_batch_boundary_is_refused(store: Store, question: Question, commit: Commit) -> None:
    artifact = commit(rows=[question(f"q{i:04}") for i in range(3000)], seed=1)
    path = artifact.path / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    boundaries = [i for i in range(0, len(content), 8) if content[i : i + 4] == b"\xff\xff\xff\xff"]
    assert len(boundaries) >= 3
    for boundary in boundaries:
        path.write_bytes(content[:boundary])
        with pytest.raises(CorruptArtifact, match="data-00000-of-00001.arrow"):
            store.find("questions", artifact.fingerprint)
    path.write_bytes(content)
    assert store.find("questions", artifact.fingerprint) is not None


def test_a_commit_replaces_a_damaged_artifact(store: Store, commit: Commit) -> None:
    flip(commit(50, seed=1).path / "data-00000-of-00001.arrow")
    assert len(commit(50, seed=1).rows()) == 50
    assert len(list((store.root / "questions/.corrupt").iterdir())) == 1


@pytest.mark.parametrize("content", [None, "left.arrow"])
def test_a_folder_without_a_manifest_is_no_artifact_and_does_not_stop_a_commit(
    store: Store, commit: Commit, content: str | None
) -> None:
    fingerprint = Identity("questions", 1, {"seed": 1}, {}).fingerprint
    folder = store.root / "questions" / fingerprint
    folder.mkdir(parents=True)
    if content:
        (folder / content).write_text("x")
    assert store.find("questions", fingerprint) is None
    assert commit(3, seed=1).path == folder
    assert not (folder / "left.arrow").exists()


def test_an_artifact_under_a_wrong_name_is_refused(store: Store, commit: Commit) -> None:
    artifact = commit(3, seed=1)
    artifact.path.rename(artifact.path.parent / ("0" * 16))
    with pytest.raises(CorruptArtifact, match="moved or renamed"):
        store.find("questions", "0" * 16)


def test_find_or_set_aside_counts_damage_as_absence_and_says_so(
    store: Store, commit: Commit, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = commit(3, seed=1)
    flip(artifact.path / "data-00000-of-00001.arrow")
    assert store.find_or_set_aside("questions", artifact.fingerprint) is None
    assert "is damaged" in caplog.text
    assert folders(store) == []


def test_setting_aside_leaves_a_whole_artifact_where_it_is(store: Store, commit: Commit) -> None:
    artifact = commit(3, seed=1)
    assert store.set_aside("questions", artifact.fingerprint) is None
    assert folders(store) == [artifact.fingerprint]
    assert store.discard(artifact) is not None
    assert folders(store) == []
    assert store.discard(artifact) is None


# ---------------------------------------------------------------- the root
def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="not a folder; choose another root"):
            Store.open(root)


def test_a_root_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "locked"
    root.mkdir()
    root.chmod(0o500)
    if os.access(root, os.W_OK):  # root ignores permissions; the kernel's own folders do not care who asks
        root = Path("/sys/kernel/agentflow-store")
    with pytest.raises(InputError, match="cannot be written"):
        Store.open(root)


def test_a_root_that_reads_like_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="remote address"):
        Store.open(tmp_path / "zip::here")


def test_odd_names_of_the_root_work(tmp_path: Path, question: Question) -> None:
    store = Store.open(tmp_path / "ä b#%41[x]*? 'q'\n$HOME")
    outcomes = Outcomes([question("a")], [], 1, 1)
    artifact = store.commit_table(Identity("questions", 1, {}, {}), outcomes, QUESTIONS, recipe="smoke")
    assert artifact.rows() == [question("a")]


@pytest.mark.parametrize("stage, fingerprint", [("../x", "aa"), ("x", "../../etc"), ("x", ".locks"), ("", "aa")])
def test_a_name_that_leads_elsewhere_is_refused(store: Store, stage: str, fingerprint: str) -> None:
    with pytest.raises(StoreError, match="must be letters"):
        store.find(stage, fingerprint)


# ---------------------------------------------------------------- listing
def test_latest_is_the_newest_of_the_recipe(store: Store, commit: Commit) -> None:
    commit(3, seed=1, recipe="demo")
    newest_demo = commit(3, seed=2, recipe="demo")
    newest = commit(3, seed=3, recipe="smoke")
    found = store.latest("questions", "demo"), store.latest("questions")
    assert [artifact and artifact.ref for artifact in found] == [newest_demo.ref, newest.ref]
    assert store.latest("questions", "night") is None
    assert store.latest("traces") is None
    assert store.stages() == ["questions"]


def test_an_unreadable_manifest_is_skipped_in_lists_with_a_warning(
    store: Store, commit: Commit, caplog: pytest.LogCaptureFixture
) -> None:
    torn = commit(3, seed=1).path / "manifest.json"
    os.truncate(torn, torn.stat().st_size // 2)
    (commit(3, seed=2).path / "manifest.json").write_text("[]")
    kept = commit(3, seed=3)
    assert [artifact.ref for artifact in store.list("questions")] == [kept.ref]
    assert caplog.text.count("skipped") == 2


def test_an_artifact_is_resolved_by_path_stage_or_start_of_fingerprint(store: Store, commit: Commit) -> None:
    artifact, other = commit(3, seed=1), commit(3, seed=2)
    for ref in (str(artifact.path), artifact.ref, artifact.ref[:-4], artifact.fingerprint[:8]):
        assert store.resolve(ref).ref == artifact.ref
    for ref, problem in (
        ("questions/", "more than one"),
        ("traces/ab", "is no artifact"),
        ("../../etc", "no artifact"),
    ):
        with pytest.raises(InputError, match=problem) as caught:
            store.resolve(ref)
        assert artifact.ref in str(caught.value)
        assert other.ref in str(caught.value)


# ---------------------------------------------------------------- lock
def test_a_lock_lets_one_in_at_a_time_and_tells_the_other_that_it_waits(store: Store) -> None:
    waiting, events = Event(), list[str]()

    def second() -> None:
        with store.lock("sft", "aa", on_wait=waiting.set):
            events.append("second")

    with store.lock("sft", "aa", on_wait=lambda: events.append("never")):
        thread = Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        with store.lock("sft", "bb", on_wait=lambda: events.append("never")):
            events.append("other artifact")
        events.append("first")
    thread.join(10)
    assert events == ["other artifact", "first", "second"]
