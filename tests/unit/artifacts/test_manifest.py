"""Counts conserve keys; a manifest says what it is and shows when somebody changed it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.manifest import Counts, Manifest, code_version
from agentflow.errors import ConservationError, CorruptArtifact
from agentflow.records import Outcomes, Reject

REASONS = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 5))


@given(st.integers(0, 9), REASONS, REASONS, REASONS, st.integers(-3, 3))
def test_counts_pass_exactly_when_every_key_is_accounted_for(
    out: int, dropped: dict[str, int], quarantined: dict[str, int], failed: dict[str, int], error: int
) -> None:
    counts = Counts(out=out, dropped=dropped, quarantined=quarantined, failed=failed)
    total = out + sum(dropped.values()) + sum(quarantined.values()) + sum(failed.values())
    assert counts.total == total
    if error == 0:
        counts.check(total)
    else:
        with pytest.raises(ConservationError, match=f"{total + error} keys in"):
            counts.check(total + error)


def test_rejects_are_counted_by_status_and_reason() -> None:
    rejects = [Reject("a", "dropped", "x"), Reject("b", "dropped", "x"), Reject("c", "failed", "timeout")]
    counts = Counts.of(Outcomes([], rejects, 3, 0))
    assert counts == Counts(out=0, dropped={"x": 2}, failed={"timeout": 1})


@pytest.mark.parametrize(
    "outcomes",
    [
        Outcomes([], [Reject("a", "dropped", "x"), Reject("a", "failed", "y")], 2, 0),
        Outcomes([{"id": "a"}], [Reject("a", "dropped", "x")], 2, 1),
        Outcomes([], [Reject("a", "ok", "x")], 1, 0),
    ],
    ids=["rejected twice", "out and rejected", "rejected as ok"],
)
def test_a_key_accounted_for_twice_is_a_defect(outcomes: Outcomes) -> None:
    with pytest.raises(ConservationError, match="'a'"):
        Counts.of(outcomes)


def test_a_manifest_read_back_is_the_same(commit: Callable[..., Artifact]) -> None:
    artifact = commit(3, seed=1)
    manifest = Manifest.read(artifact.path / "manifest.json")
    assert manifest == artifact.manifest
    assert manifest.code_version == code_version()
    assert manifest.timings == {"wall_s": 0.0}
    assert {entry.path for entry in manifest.files} == {
        "data-00000-of-00001.arrow", "dataset_info.json", "state.json",
    }  # fmt: skip


def test_an_edited_manifest_is_refused(commit: Callable[..., Artifact]) -> None:
    path = commit(3, seed=1).path / "manifest.json"
    fields = json.loads(path.read_text())
    fields["counts"]["out"] = 4
    path.write_text(json.dumps(fields))
    with pytest.raises(CorruptArtifact, match="checksum"):
        Manifest.read(path)


def test_a_manifest_cut_anywhere_is_refused(commit: Callable[..., Artifact], tmp_path: Path) -> None:
    content = (commit(1, seed=1).path / "manifest.json").read_bytes()
    path = tmp_path / "manifest.json"
    for length in range(len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptArtifact):
            Manifest.read(path)


def test_any_flipped_byte_of_a_manifest_is_refused_or_means_the_same(
    commit: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = commit(1, seed=1)
    content = (artifact.path / "manifest.json").read_bytes()
    path = tmp_path / "manifest.json"
    refused = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert Manifest.read(path) == artifact.manifest
        except CorruptArtifact:
            refused += 1
    assert refused > 0.9 * len(content) - content.count(b" ") - content.count(b"\n")
