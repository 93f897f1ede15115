"""Rows that can be stored are, others are named; a digest depends on content alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.artifacts.tables import build_table, rejects_table, split_bad_rows, table_digest
from agentflow.errors import SchemaMismatch, StoreError
from agentflow.records import Reject
from agentflow.schemas import QUESTIONS

SMALL = pa.schema([("id", pa.string()), ("n", pa.int64()), ("x", pa.float64()), ("tags", pa.list_(pa.string()))])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6),
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "tags": st.none() | st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=3), max_size=3),
        }
    ),
    max_size=12,
    unique_by=lambda row: row["id"],
)
BAD_VALUES: dict[str, Any] = {
    "lone surrogate": {"tags": ["\ud800"]},
    "surrogate in the id": {"id": "\udfff"},
    "2**63": {"n": 2**63},
    "NaN": {"x": float("nan")},
    "infinity": {"x": float("inf")},
    "another type": {"n": "seven"},
    "bytes": {"tags": [b"\xff"]},
    "no id": {"id": None},
    "empty id": {"id": ""},
    "another column": {"extra": 1},
}


def row(row_id: str, **changed: Any) -> dict[str, Any]:
    return {"id": row_id, "n": 1, "x": 0.5, "tags": ["a"], **changed}


@given(ROWS, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_row_order_or_chunks(rows: list[dict[str, Any]], rng: random.Random) -> None:
    table, digest = build_table("s", rows, SMALL)
    shuffled = rng.sample(rows, len(rows))
    assert build_table("s", shuffled, SMALL)[1] == digest
    pieces = [pa.RecordBatch.from_pylist([one], schema=SMALL) for one in shuffled]
    assert table_digest(pa.Table.from_batches(pieces, schema=SMALL), SMALL) == digest
    assert table.column("id").to_pylist() == sorted((one["id"] for one in rows), key=str.encode)
    assert sorted(table.to_pylist(), key=lambda one: one["id"]) == sorted(rows, key=lambda one: one["id"])


def test_the_digest_depends_on_every_value_and_on_the_schema() -> None:
    digests = {
        build_table("s", rows, schema)[1]
        for rows, schema in [
            ([row("a")], SMALL),
            ([row("b")], SMALL),
            ([row("a", n=2)], SMALL),
            ([row("a", n=None)], SMALL),
            ([row("a", tags=[])], SMALL),
            ([row("a", tags=None)], SMALL),
            ([row("a"), row("b")], SMALL),
            ([], SMALL),
            ([], QUESTIONS),
        ]
    }
    assert len(digests) == 9


def test_rows_beyond_one_chunk_are_all_there() -> None:
    rows = [row(f"{i:05}") for i in range(2500)]
    table, digest = build_table("s", rows[::-1], SMALL)
    assert table.to_pylist() == rows
    assert table_digest(table, SMALL) == digest


@pytest.mark.parametrize("changed", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_of_a_thousand_rows_the_bad_one_is_set_apart_and_the_others_stay(changed: dict[str, Any]) -> None:
    rows = [row(f"r{i}") for i in range(1000)]
    bad = row("bad") | changed
    good, rejects = split_bad_rows([*rows[:500], bad, *rows[500:]], SMALL)
    assert good == rows
    assert [(reject.status, reject.reason) for reject in rejects] == [("quarantined", "unstorable")]
    assert rejects[0].row is bad
    assert rejects[0].detail


@pytest.mark.parametrize("changed", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_bad_row_that_reaches_the_commit_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises((StoreError, SchemaMismatch)):
        build_table("s", [row("a"), row("bad") | changed], SMALL)


def test_the_refusal_names_the_row_and_the_remedy() -> None:
    with pytest.raises(StoreError, match="(?s)row 'bad'.*surrogates.*quarantine"):
        build_table("s", [row("a"), row("bad", tags=["\ud800"])], SMALL)


def test_two_rows_with_one_id_are_refused() -> None:
    with pytest.raises(StoreError, match="two rows have the id 'a'"):
        build_table("s", [row("a"), row("b"), row("a")], SMALL)


def test_other_columns_are_refused_naming_missing_and_available_ones() -> None:
    with pytest.raises(SchemaMismatch, match=r"missing columns \['x'\], unexpected \['y'\]") as caught:
        build_table("s", [{"id": "a", "n": 1, "y": 2, "tags": []}], SMALL)
    assert "available: ['id', 'n', 'tags', 'y']" in str(caught.value)


def test_rejects_keep_whatever_the_rejected_row_was() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    rows: dict[str, dict[str, Any]] = {
        "nan": {"x": float("nan")}, "surrogate\ud800": {"t": "\ud800"}, "object": {"o": object()},
        "deep": {"d": nested}, "long integer": {"i": 10**5000}, "large": {"t": "x" * 17_000_000},
    }  # fmt: skip
    table = rejects_table([Reject(key, "quarantined", "odd", "", value) for key, value in rows.items()])
    kept = {one["key"]: one["row"] for one in table.to_pylist()}
    assert kept["nan"] == '{"x": NaN}'
    assert kept["surrogate\\ud800"] == '{"t": "\\ud800"}'
    assert "RecursionError" in kept["deep"]
    assert "ValueError" in kept["long integer"]
    assert len(kept["large"]) < 2000
    while nested:
        nested = nested.pop()


def test_a_rejects_table_is_in_order_of_its_keys(question: Callable[..., dict[str, Any]]) -> None:
    table = rejects_table([Reject(key, "dropped", "x", "", question(key)) for key in ("b", "c", "a")])
    assert table.column("key").to_pylist() == ["a", "b", "c"]
