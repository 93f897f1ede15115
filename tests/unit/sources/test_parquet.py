"""Parquet files: the same rows as JSONL, bad ones set apart alone, a damaged or foreign file refused whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentflow.errors import InputError
from agentflow.records import Reject
from agentflow.sources import parquet
from agentflow.sources.file_sources import NqOpenSource, TriviaQaSource
from agentflow.sources.parquet import read_parquet
from agentflow.sources.source import load_questions

TRIVIA = Path(__file__).with_name("triviaqa_rc.jsonl")
SEAS = [{"question": f"Which sea is number {n}?", "answer": [f"sea {n}", f"Sea no. {n}"]} for n in range(700)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    records = [json.loads(line) for line in TRIVIA.read_text().splitlines()]
    # Named as the hub names it and as nothing at all: the first bytes tell.
    for name in ("train-00000-of-00001.parquet", "trivia"):
        outcome = load_questions(TriviaQaSource(path=written(tmp_path / name, records)))
        expected = load_questions(TriviaQaSource(path=TRIVIA))
        without_source = [{**row, "source": ""} for row in outcome.rows]
        assert without_source == [{**row, "source": ""} for row in expected.rows]
        assert [(r.key, r.reason) for r in outcome.rejects] == [(f"{name}:3", "no_answer")]


def test_rows_are_keyed_and_limited_across_batches(tmp_path: Path) -> None:
    path = written(tmp_path / "seas.parquet", SEAS)
    found = list(read_parquet(path, 300, name="x"))
    assert len(found) == 300 and found[299] == ("x:300", SEAS[299])
    assert len(list(read_parquet(path))) == 700


def test_a_row_that_is_no_text_is_quarantined_alone(tmp_path: Path) -> None:
    good = [b"Which sea?", b"Which lake?"]
    raw = pa.array([good[0], b"\xff\xfe", good[1]], pa.binary())
    questions = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"question": questions, "answer": [["Red"], ["x"], ["Como"]]}), tmp_path / "raw.parquet")
    outcome = load_questions(NqOpenSource(path=tmp_path / "raw.parquet"))
    assert {row["question"] for row in outcome.rows} == {"Which sea?", "Which lake?"}
    assert [(r.key, r.status, r.reason) for r in outcome.rejects] == [("raw.parquet:2", "quarantined", "bad_text")]


def test_a_row_that_is_too_large_is_set_apart_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 2000)
    path = written(tmp_path / "seas.parquet", [SEAS[0], {**SEAS[1], "question": "x" * 9000}, SEAS[2]])
    kinds = [(key, item.reason if isinstance(item, Reject) else item) for key, item in read_parquet(path)]
    assert kinds == [("seas.parquet:1", SEAS[0]), ("seas.parquet:2", "too_long"), ("seas.parquet:3", SEAS[2])]


@pytest.mark.parametrize("damage", ["cut", "no parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "seas.parquet", SEAS)
    path.write_bytes(path.read_bytes()[:-30] if damage == "cut" else b'{"question": "Which sea?"}\n')
    with pytest.raises(InputError, match=r"seas\.parquet' as Parquet: .*whole Parquet file"):
        load_questions(NqOpenSource(path=path))


def test_an_extension_type_is_refused_by_its_column(tmp_path: Path) -> None:
    table = pa.table({"question": ["Which sea?"], "id": pa.array([b"0" * 16], pa.uuid())})
    pq.write_table(table, tmp_path / "ids.parquet")
    with pytest.raises(InputError, match=r"column 'id' has the extension type .*store it as text"):
        load_questions(NqOpenSource(path=tmp_path / "ids.parquet"))
