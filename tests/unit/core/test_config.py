"""The identity of a configuration: what it is, never where it runs; and nothing without a stable form."""

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentflow.config import Frozen, LocalFile, Where, identity, sha256_file
from agentflow.errors import InputError, UnstableValueError
from agentflow.records import canonical_json


class Colour(str, Enum):  # noqa: UP042
    RED = "red"


class Inner(Frozen):
    depth: int = 1
    address: Annotated[str, Where()] = "here"


class Outer(Frozen):
    name: str = "a"
    inner: Inner = Inner()
    others: tuple[Inner, ...] = ()
    corpus: Annotated[Path | None, LocalFile()] = None
    workers: Annotated[int, Where()] = 1
    anything: Any = None


class Provided(Frozen):
    base_url: Annotated[str, Where()] = "http://localhost"
    name: str = "x"

    def extra_identity(self) -> dict[str, Any]:
        return {"provider": "local", "name": "overridden"}


def test_places_and_speed_knobs_are_left_out_at_every_depth():
    there = Outer(inner=Inner(address="there"), others=(Inner(address="elsewhere"),), workers=8)
    here = Outer(others=(Inner(),))
    assert identity(there) == identity(here)
    assert "workers" not in identity(here) and "address" not in identity(here)["inner"]


def test_every_other_field_counts():
    assert identity(Outer()) == {"name": "a", "inner": {"depth": 1}, "others": [], "corpus": None, "anything": None}
    assert identity(Outer(inner=Inner(depth=2))) != identity(Outer())
    assert identity(Outer(name="b")) != identity(Outer())


def test_a_file_counts_by_its_bytes_not_by_its_path(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    assert identity(Outer(corpus=first)) == identity(Outer(corpus=second))
    assert identity(Outer(corpus=first))["corpus"] == {"sha256": sha256_file(first)}
    second.write_bytes(b"other")
    assert identity(Outer(corpus=first)) != identity(Outer(corpus=second))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.txt.*; give the path of an existing file"):
        identity(Outer(corpus=tmp_path / "nowhere.txt"))


def test_what_a_class_adds_wins_over_its_fields():
    assert identity(Provided(base_url="http://elsewhere")) == {"name": "overridden", "provider": "local"}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, b"bytes", len, object(), Path("x"), {1: 2}, [math.nan], 1j]
)
def test_a_value_without_a_stable_form_is_refused(value):
    with pytest.raises(UnstableValueError, match="has no stable form"):
        identity(value)
    with pytest.raises(UnstableValueError, match="has no stable form"):
        identity(Outer(anything=value))


def test_an_enum_of_strings_counts_by_its_value():
    assert identity([Colour.RED, (1, None)]) == ["red", [1, None]]


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(json_data)
def test_json_data_is_its_own_identity(value):
    assert canonical_json(identity(value)) == canonical_json(value)


def test_a_configuration_cannot_be_changed_and_takes_no_unknown_field():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().depth = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Inner(dept=2)  # type: ignore[call-arg]
