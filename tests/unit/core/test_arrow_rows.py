"""Rows kept as Arrow read like the list they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from agentflow.arrow_rows import CHUNK_ROWS, ArrowRows, Joined

SCHEMA = pa.schema([("id", pa.string()), ("aliases", pa.list_(pa.string())), ("n", pa.int64())])


def listed(n: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "aliases": [str(i)] * (i % 3), "n": None if i % 5 == 0 else i} for i in range(n)]


@pytest.mark.parametrize("n", [0, 3, CHUNK_ROWS, 2 * CHUNK_ROWS + 7])
def test_they_are_the_rows_that_were_added(n: int) -> None:
    expected = listed(n)
    rows = ArrowRows(SCHEMA)
    for row in expected:
        rows.append(row)
    assert len(rows) == n and list(rows) == expected
    assert rows[-5:] == expected[-5:]
    assert list(rows.column("id")) == [row["id"] for row in expected]
    for place in range(0, n, 37):
        assert rows[place] == expected[place] and rows[place - n] == expected[place - n]
    with pytest.raises(IndexError):
        rows[n]


def test_a_selection_and_a_join_copy_nothing_and_keep_their_order() -> None:
    expected = listed(CHUNK_ROWS + 50)
    rows = ArrowRows(SCHEMA)
    for row in expected:
        rows.append(row)
    some = rows.select(np.array([CHUNK_ROWS + 49, 3, CHUNK_ROWS]))
    assert list(some) == [expected[-1], expected[3], expected[CHUNK_ROWS]] and len(some) == 3
    every_other = np.arange(0, CHUNK_ROWS + 50, 2)
    assert list(rows.select(every_other)) == expected[::2] and rows.select(every_other)[3:5] == expected[6:10:2]
    joined = Joined([some, [], expected[:2]])
    assert (
        list(joined) == [*some, *expected[:2]]
        and len(joined) == 5
        and joined[3:] == expected[:2]
        and joined[-1] == expected[1]
    )
    assert len(Joined([])) == 0


def test_a_value_arrow_cannot_carry_is_an_error() -> None:
    rows = ArrowRows(SCHEMA)
    with pytest.raises(OverflowError):
        for row in listed(CHUNK_ROWS):
            rows.append({**row, "n": 2**63})
