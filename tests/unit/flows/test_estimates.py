"""What a run says its paid calls will cost, from question files of every kind, before any of them is made."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentflow.artifacts.store import Store
from flows.estimating import estimates, lines
from flows.plan import decide
from flows.recipes import load_recipe

ROWS = [
    {"question": f"What is {n} + 1?", "answer": f"{n}+1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(40)
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def said(root: Path, *settings: str) -> list[str]:
    recipe = load_recipe("smoke", list(settings))
    store = Store.open(root / "artifacts")
    return lines(estimates(recipe, decide(recipe, store), store, str(root / "ledger.db")))


def of_file(path: Path) -> list[str]:
    return ["questions.source.kind=gsm8k", f"questions.source.path={path}", "questions.source.test_fraction=0.5"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt", "rows.parquet"])
def test_a_file_of_questions_is_counted_without_reading_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (traces,) = [line for line in said(tmp_path, *of_file(path)) if line.startswith("estimate traces")]
    assert " 20 calls" in traces, "half of 40 questions are tests"
    (traces,) = [
        line
        for line in said(tmp_path, *of_file(path), "questions.source.limit=10")
        if line.startswith("estimate traces")
    ]
    assert " 5 calls" in traces


def test_where_only_reading_could_tell_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    hub = ["questions.source.kind=hotpotqa", "questions.source.hub_id=hotpotqa/hotpot_qa",
           f"questions.source.revision={COMMIT}"]  # fmt: skip
    found = said(tmp_path, *hub)
    assert [line.split()[:3] for line in found[:2]] == [
        ["estimate", "traces", "unknown:"], ["estimate", "tool_insertion", "unknown:"]
    ]  # fmt: skip
    assert "hotpotqa (hotpotqa/hotpot_qa)" in found[0] and "set questions.source.limit" in found[0]
    assert found[-1].endswith("numbers of questions are missing, so this is not all"), "GRPO's searches are bounded"
    assert " calls, " in said(tmp_path, *hub, "questions.source.limit=10")[0]


def test_a_file_that_is_no_parquet_is_unknown_here_and_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert said(tmp_path, *of_file(path))[0].startswith("estimate traces          unknown: ")


def test_nothing_is_said_where_nothing_is_paid(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert said(tmp_path, *of_file(path), "traces.origin=recorded", 'tools.names=["Calculator"]') == []
