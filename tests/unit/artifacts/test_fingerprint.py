"""Identity is exact or refuses, and a change is shown field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.artifacts.fingerprint import ABSENT, Change, Identity, changes, identity_of
from agentflow.config import Frozen, LocalFile, Where
from agentflow.errors import UnstableValueError
from agentflow.schemas import STAGES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Sft(Frozen):
    lr: float = 0.001
    layers: tuple[int, ...] = (1, 2)
    workers: Annotated[int, Where()] = 1
    data: Annotated[Path | None, LocalFile()] = None


def test_hardware_never_changes_a_fingerprint() -> None:
    inputs = {"loss_filter": Identity("loss_filter", 1, {}, {})}
    one = identity_of(STAGES["sft"], Sft(workers=1), inputs)
    many = identity_of(STAGES["sft"], Sft(workers=64), inputs)
    assert one == many
    assert one.fingerprint == many.fingerprint


def test_every_field_input_and_version_changes_the_fingerprint() -> None:
    base = Identity("sft", 1, {"lr": 0.001}, {"loss_filter": "aa"})
    others = [
        Identity("grpo", 1, {"lr": 0.001}, {"loss_filter": "aa"}),
        Identity("sft", 2, {"lr": 0.001}, {"loss_filter": "aa"}),
        Identity("sft", 1, {"lr": 0.002}, {"loss_filter": "aa"}),
        Identity("sft", 1, {"lr": 0.001}, {"loss_filter": "ab"}),
        Identity("sft", 1, {"lr": 0.001}, {}),
    ]
    assert len({identity.fingerprint for identity in [base, *others]}) == 6


def test_a_fingerprint_is_hexadecimal_and_does_not_depend_on_the_order_of_fields() -> None:
    one, other = Identity("sft", 1, {"a": 1, "b": 2}, {}), Identity("sft", 1, {"b": 2, "a": 1}, {})
    assert one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 16
    assert int(one.fingerprint, 16) >= 0


def test_a_fingerprint_is_the_same_next_year() -> None:
    assert Identity("sft", 1, {"lr": 0.001, "name": "ä"}, {"x": "00"}).fingerprint == "a57c24e864bb6ba1"


def test_a_local_file_enters_by_its_content(tmp_path: Path) -> None:
    one, copy, other = tmp_path / "one", tmp_path / "copy", tmp_path / "other"
    one.write_text("same")
    copy.write_text("same")
    other.write_text("different")
    prints = [identity_of(STAGES["sft"], Sft(data=path), {}).fingerprint for path in (one, copy, other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_value_without_a_stable_form_is_refused() -> None:
    with pytest.raises(UnstableValueError, match="nan"):
        identity_of(STAGES["sft"], Sft(lr=float("nan")), {})


def test_changes_name_the_field_and_both_values() -> None:
    old: dict[str, Any] = {"teacher": {"model": "a", "t": 0.6}, "layers": [1, 2], "gone": None}
    new: dict[str, Any] = {"teacher": {"model": "b", "t": 0.6}, "layers": [1, 3], "come": [1]}
    assert changes(old, new) == [
        Change("come", ABSENT, [1]),
        Change("gone", None, ABSENT),
        Change("layers.1", 2, 3),
        Change("teacher.model", "a", "b"),
    ]
    assert str(changes(old, new)[3]) == "teacher.model: 'a' -> 'b'"


def test_lists_of_different_length_are_shown_whole() -> None:
    assert changes({"a": [1]}, {"a": [1, 2]}) == [Change("a", [1], [1, 2])]


CONFIGS = st.dictionaries(st.text(max_size=3), JSON, max_size=3)


@settings(max_examples=40, deadline=None)
@given(CONFIGS, CONFIGS)
def test_there_are_changes_exactly_when_the_fingerprints_differ(old: dict[str, Any], new: dict[str, Any]) -> None:
    differ = Identity("sft", 1, old, {}).fingerprint != Identity("sft", 1, new, {}).fingerprint
    assert bool(changes(old, new)) == differ
    assert changes(old, old) == []
