"""Batches: finished parts of a stage are kept, damaged ones are made anew, failed ones are not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.errors import ConservationError, CorruptArtifact, StageIncomplete, StoreError
from agentflow.records import Outcomes, Reject
from agentflow.schemas import QUESTIONS
from tasks.batches import merge

Question = Callable[..., dict[str, Any]]
FINGERPRINT = "ab" * 8


@pytest.fixture
def outcomes(question: Question) -> Outcomes:
    return Outcomes([question("a"), question("b")], [Reject("c", "dropped", "wrong_answer", "", {"n": 1})], 3, 2)


def files(store: Store, suffix: str) -> list[Path]:
    return sorted((store.root / "questions/.batches" / FINGERPRINT).glob(f"*{suffix}"))


def test_a_committed_batch_gives_back_what_was_put_in(store: Store, outcomes: Outcomes) -> None:
    store.commit_batch("questions", FINGERPRINT, "b-0", outcomes, QUESTIONS, extra={"usd": 0.1})
    batch = store.find_batch("questions", FINGERPRINT, "b-0")
    assert batch is not None
    assert batch.outcomes() == outcomes
    assert batch.manifest.extra == {"usd": 0.1}
    assert store.find_batch("questions", FINGERPRINT, "b-1") is None
    assert store.find_batch("questions", "cd" * 8, "b-0") is None


def test_what_a_stage_counted_beside_its_rows_stays_with_the_batch(store: Store, outcomes: Outcomes) -> None:
    counted = replace(outcomes, counts={"left_out/Search/refused": 2})
    store.commit_batch("questions", FINGERPRINT, "b-0", counted, QUESTIONS, extra={"usd": 0.1})
    batch = store.find_batch("questions", FINGERPRINT, "b-0")
    assert batch is not None and batch.outcomes() == counted
    assert batch.manifest.extra == {"usd": 0.1, "counts": {"left_out/Search/refused": 2}}
    assert merge([batch.outcomes(), counted, outcomes]).counts == {"left_out/Search/refused": 4}


def test_a_second_delivery_of_a_batch_returns_the_first(store: Store, outcomes: Outcomes, question: Question) -> None:
    store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS)
    late = Outcomes([question("a", answer="73")], [], 1, 1)
    batch = store.commit_batch("questions", FINGERPRINT, "b", late, QUESTIONS)
    assert batch.outcomes() == outcomes
    assert len(files(store, ".arrow")) == 2


@pytest.mark.parametrize("suffix", [".rejects.arrow", ".arrow", ".json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_batch_counts_as_absent_and_is_made_anew(
    store: Store, outcomes: Outcomes, suffix: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS)
    path = next(p for p in files(store, suffix) if suffix != ".arrow" or not p.name.endswith(".rejects.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-9])
    assert store.find_batch("questions", FINGERPRINT, "b") is None
    assert ("is damaged" in caplog.text) == (suffix != ".json" or damage != "gone")
    assert store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS).outcomes() == outcomes
    found = store.find_batch("questions", FINGERPRINT, "b")
    assert found is not None
    assert found.outcomes() == outcomes


def test_damage_after_the_batch_was_found_is_noticed_too(store: Store, outcomes: Outcomes) -> None:
    batch = store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS)
    path = batch.folder / batch.manifest.rows.path
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptArtifact, match="batch 'b'"):
        batch.outcomes()


def test_data_that_no_manifest_names_is_not_a_batch(store: Store, outcomes: Outcomes) -> None:
    store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS)
    files(store, ".json")[0].unlink()
    assert store.find_batch("questions", FINGERPRINT, "b") is None


def test_a_batch_with_failed_keys_is_not_kept_unless_asked(store: Store, question: Question) -> None:
    failed = Outcomes([question("a")], [Reject("b", "failed", "rate_limited")], 2, 1)
    with pytest.raises(StageIncomplete, match="rate_limited") as caught:
        store.commit_batch("questions", FINGERPRINT, "b", failed, QUESTIONS)
    assert (caught.value.stage, caught.value.failed) == ("questions", {"rate_limited": 1})
    assert store.find_batch("questions", FINGERPRINT, "b") is None
    batch = store.commit_batch("questions", FINGERPRINT, "b", failed, QUESTIONS, allow_failed=True)
    assert batch.outcomes() == failed


def test_a_batch_that_loses_a_key_is_refused(store: Store, question: Question) -> None:
    with pytest.raises(ConservationError, match="2 keys in"):
        store.commit_batch("questions", FINGERPRINT, "b", Outcomes([question("a")], [], 2, 1), QUESTIONS)
    assert files(store, "") == []


@pytest.mark.parametrize("key", ["", "../../etc/passwd", ".hidden", "a/b", "a" * 121, "ä"])
def test_a_batch_key_that_is_no_harmless_file_name_is_refused(store: Store, outcomes: Outcomes, key: str) -> None:
    with pytest.raises(StoreError, match="batch key"):
        store.commit_batch("questions", FINGERPRINT, key, outcomes, QUESTIONS)


def test_batches_are_dropped_only_after_the_stage_is_committed(
    store: Store, outcomes: Outcomes, commit: Callable[..., Artifact]
) -> None:
    store.commit_batch("questions", FINGERPRINT, "b", outcomes, QUESTIONS)
    with pytest.raises(StoreError, match="not committed"):
        store.drop_batches("questions", FINGERPRINT)
    artifact = commit(2, seed=1)
    store.commit_batch("questions", artifact.fingerprint, "b", outcomes, QUESTIONS)
    store.drop_batches("questions", artifact.fingerprint)
    store.drop_batches("questions", artifact.fingerprint)
    assert store.find_batch("questions", artifact.fingerprint, "b") is None
    assert store.find_batch("questions", FINGERPRINT, "b") is not None
