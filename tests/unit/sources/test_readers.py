"""Reading real data: what a line becomes, and that bad lines are set apart alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import InputError
from agentflow.records import Reject
from agentflow.sources import facts, gsm8k, hotpotqa, readers
from agentflow.sources.fields import BadRow
from agentflow.sources.readers import read_hub, read_jsonl
from agentflow.sources.sentences import sentences

CLIPS = {
    "question": "Natalia sold 48 clips in April and half as many in May. How many in all?",
    "answer": "In May 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = $<<48+24=72>>72.\n#### 1,072",
}
POND = {
    "_id": "5a7c",
    "type": "bridge",
    "level": "easy",
    "question": "In which town was the author of Pond Days born?",
    "answer": "Orle",
    "supporting_facts": [["Ida Venn", 1], ["Pond Days", 0]],
    "context": [
        ["Pond Days", ["Pond Days is a novel by Dr. Ida Venn.", " It is long."]],
        ["Ida Venn", ["Ida Venn was a writer.", " She was born in Orle.  She lived there."]],
        ["Elsewhere", ["Nothing."]],
    ],
}


def records(path: Path, lines: list[str | bytes], limit: int | None = None) -> list[tuple[str, Any]]:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return list(read_jsonl(path, limit))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1, 2]",
        "7",
        "null",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        b"\xff\xfe{}",
        "<html>",
    ],
)
def test_a_line_that_is_no_object_is_quarantined_alone(tmp_path: Path, line: str | bytes) -> None:
    found = records(tmp_path / "rows.jsonl", ['{"x": 1}', line, '{"x": 2}'])
    assert [item for _, item in found[::2]] == [{"x": 1}, {"x": 2}]
    key, reject = found[1]
    assert isinstance(reject, Reject)
    assert (key, reject.key) == ("rows.jsonl:2", "rows.jsonl:2")
    assert (reject.status, reject.reason) == ("quarantined", "bad_json")
    assert len(json.dumps(reject.row)) < 10_000


def test_a_line_that_is_too_long_is_skipped_without_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1000)
    found = records(tmp_path / "rows.jsonl", ['{"x": "' + "y" * 5000 + '"}', '{"x": 2}'])
    assert [key for key, _ in found] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert found[0][1].reason == "too_long" and found[1][1] == {"x": 2}


def test_blank_lines_are_no_rows_and_the_limit_counts_rows(tmp_path: Path) -> None:
    lines: list[str | bytes] = ["", '{"x": 1}', "  ", "{", '{"x": 2}\r', '{"x": 3}']
    assert [key for key, _ in records(tmp_path / "rows.jsonl", lines)] == [f"rows.jsonl:{n}" for n in (2, 4, 5, 6)]
    assert [key for key, _ in records(tmp_path / "rows.jsonl", lines, limit=2)] == ["rows.jsonl:2", "rows.jsonl:4"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl.*No such file.*existing JSONL"):
        list(read_jsonl(tmp_path / "nowhere.jsonl"))


@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_rejects(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(content)
    found = list(read_jsonl(path))
    assert len(found) == sum(1 for line in content.split(b"\n") if line.strip())
    assert all(isinstance(item, dict | Reject) for _, item in found)


def test_gsm8k_loses_its_marks_and_its_last_line() -> None:
    row = gsm8k.question_row(CLIPS)
    assert row["rationale"] == "In May 48/2 = 24 clips.\nIn all 48+24 = $72."
    assert row["answer"] == "1072" and row["answer_type"] == "number" and row["id"].startswith("gsm8k-")
    assert json.loads(row["meta"]) == {"equations": [["48/2", "24"], ["48+24", "72"]]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "no_question"),
        ({"question": None}, "no_question"),
        ({"question": 7}, "no_question"),
        ({"answer": "   "}, "no_answer"),
        ({"answer": None}, "no_answer"),
        ({"answer": "It is 72."}, "no_answer"),
        ({"answer": "Solved.\n#### "}, "no_answer"),
        ({"answer": "Solved.\n#### many"}, "bad_answer"),
        ({"question": "What is \ud800?"}, "bad_text"),
        ({"answer": "\ud800\n#### 3"}, "bad_text"),
    ],
)
def test_a_gsm8k_row_without_its_parts_is_refused_by_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        gsm8k.question_row({**CLIPS, **change})
    assert caught.value.reason == reason and caught.value.detail


@pytest.mark.parametrize(("gold", "expected"), [("-3", "-3"), ("$1,200.50", "1200.50"), ("+4", "4"), (".5", ".5")])
def test_gold_numbers_are_plain(gold: str, expected: str) -> None:
    assert gsm8k.question_row({**CLIPS, "answer": f"So.\n#### {gold}"})["answer"] == expected


def test_hotpotqa_facts_become_a_chain_that_ends_with_the_answer() -> None:
    row = hotpotqa.question_row(POND)
    assert row["rationale"] == "Pond Days is a novel by Dr. Ida Venn.\nShe was born in Orle. She lived there."
    assert row["answer_type"] == "text" and row["answer"] == "Orle"
    meta = json.loads(row["meta"])
    assert [fact["title"] for fact in meta["facts"]] == ["Pond Days", "Ida Venn"] and meta["type"] == "bridge"
    assert facts.lookups(meta) == [{"sentence": 0, "query": "Pond Days"}, {"sentence": 1, "query": "Ida Venn"}]


def test_a_lookup_stands_before_the_first_sentence_of_its_title() -> None:
    wanted = [["Ida Venn", 1], ["Ida Venn", 0], ["Elsewhere", 0]]
    row = hotpotqa.question_row({**POND, "type": "comparison", "supporting_facts": wanted})
    lookups = facts.lookups(json.loads(row["meta"]))
    assert sentences(row["rationale"])[lookups[1]["sentence"]] == "Nothing."
    assert [lookup["query"] for lookup in lookups] == ["Ida Venn", "Elsewhere"]


def test_the_hub_form_of_hotpotqa_is_read_alike() -> None:
    context = {"title": [t for t, _ in POND["context"]], "sentences": [s for _, s in POND["context"]]}
    facts = {"title": [t for t, _ in POND["supporting_facts"]], "sent_id": [n for _, n in POND["supporting_facts"]]}
    columnar = {**POND, "context": context, "supporting_facts": facts}
    assert hotpotqa.question_row(columnar) == hotpotqa.question_row(POND)


def test_supporting_facts_outside_the_context_are_counted_and_left_out() -> None:
    facts = [["Pond Days", 0], ["Pond Days", 9], ["Unknown", 0]]
    row = hotpotqa.question_row({**POND, "supporting_facts": facts})
    assert json.loads(row["meta"])["missing_facts"] == 2 and row["rationale"].startswith("Pond Days is")


def test_a_hotpotqa_row_without_context_has_no_rationale() -> None:
    row = hotpotqa.question_row({"question": "Were both Danes?", "answer": "yes", "type": "comparison"})
    assert row["rationale"] == "" and facts.lookups(json.loads(row["meta"])) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": None}, "no_answer"),
        ({"question": " "}, "no_question"),
        ({"context": "text"}, "bad_context"),
        ({"context": [["Pond Days"]]}, "bad_context"),
        ({"context": {"title": ["Pond Days"]}}, "bad_context"),
        ({"supporting_facts": [["Pond Days", "0"]]}, "bad_context"),
        ({"supporting_facts": 3}, "bad_context"),
        ({"context": [["Pond Days", [7]]], "supporting_facts": [["Pond Days", 0]]}, "bad_context"),
        ({"level": "\ud800"}, "bad_text"),
    ],
)
def test_a_hotpotqa_row_of_another_shape_is_refused_by_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        hotpotqa.question_row({**POND, **change})
    assert caught.value.reason == reason


def test_hub_rows_come_at_the_pinned_revision_with_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def from_memory(hub_id: str, name: str | None, *, split: str, revision: str) -> datasets.Dataset:
        asked.append((hub_id, name, split, revision))
        return datasets.Dataset.from_list([CLIPS, CLIPS, CLIPS])

    monkeypatch.setattr(datasets, "load_dataset", from_memory)
    found = list(read_hub("openai/gsm8k", "a" * 40, "main", "train", limit=2))
    assert asked == [("openai/gsm8k", "main", "train", "a" * 40)]
    assert found == [("openai/gsm8k:0", CLIPS), ("openai/gsm8k:1", CLIPS)]


def test_an_unreachable_hub_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"openai/gsm8k.*no route.*local JSONL"):
        list(read_hub("openai/gsm8k", "a" * 40, "main", "train"))
