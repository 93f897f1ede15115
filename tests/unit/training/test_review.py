"""The cold start's review file: written, edited by a person, read back; what was checked cannot be edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk
from pipeline_rows import filtered_rows

from agentflow.errors import InputError
from agentflow.stages.cold_start import ColdStartConfig, choose
from agentflow.toolset import syntax_for
from agentflow.training.review import read_review, save_rows, select, write_review

SYNTAX = syntax_for("compact")
ROWS = filtered_rows(12)
CONFIG = ColdStartConfig(n_samples=4, min_words=1)
CHOSEN = choose(ROWS, CONFIG)


@pytest.fixture
def file(tmp_path) -> Path:
    write_review(CHOSEN, ROWS, SYNTAX, tmp_path / "review.jsonl")
    return tmp_path / "review.jsonl"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines() if line]


def put(file: Path, *changed: dict) -> None:
    file.write_text("\n\n".join(json.dumps(line) for line in changed))


def accepted(file: Path, **changes) -> list[dict]:
    """All lines accepted, the first with changes."""
    first, *others = [{**line, "verdict": "accept"} for line in lines(file)]
    return [{**first, **changes}, *others]


def test_every_chosen_sample_is_written_with_its_reason_and_its_calls(file):
    written = lines(file)
    assert [line["id"] for line in written] == [sample["id"] for sample in CHOSEN]
    for line, sample in zip(written, CHOSEN, strict=True):
        assert line["why"] == sample["why"] and line["verdict"] == ""
        assert "[Calculator(" in line["reasoning"] and "->" in line["reasoning"]
    with pytest.raises(InputError, match="is there already"):
        write_review(CHOSEN, ROWS, SYNTAX, file)


def test_accepted_rows_come_back_as_they_were_in_the_files_order(file):
    by_id = {row["id"]: row for row in ROWS}
    put(file, *reversed(accepted(file)))
    read = read_review(file, ROWS, SYNTAX)
    assert read.rows == [by_id[sample["id"]] for sample in reversed(CHOSEN)]
    assert read.rejected == [] and {one["verdict"] for one in read.chosen} == {"accept"}


def test_rejected_rows_are_left_out_and_counted(file):
    put(file, *accepted(file, verdict="reject"))
    read = read_review(file, ROWS, SYNTAX)
    assert read.rejected == [CHOSEN[0]["id"]] and len(read.rows) == 3 and len(read.chosen) == 4


def test_an_edit_keeps_the_calls_with_their_results_and_trains_on_the_new_words(file, tmp_path):
    first = lines(file)[0]
    put(file, *accepted(file, verdict="edit", reasoning="Well. " + first["reasoning"]))
    config = CONFIG.model_copy(update={"review": file})
    read = select(ROWS, config)
    original = next(row for row in ROWS if row["id"] == first["id"])
    edited = read.rows[0]
    assert edited["reasoning"] == "Well. " + original["reasoning"]
    calls = [segment for segment in original["segments"] if segment["kind"] == "call"]
    assert [segment for segment in edited["segments"] if segment["kind"] == "call"] == calls
    assert load_from_disk(str(save_rows(read.rows, tmp_path))).to_list()[0]["segments"] == edited["segments"]
    put(file, *accepted(file, verdict="edit", reasoning="No call at all."))
    assert read_review(file, ROWS, SYNTAX).rows[0]["n_calls"] == 0


def test_without_a_review_file_the_choice_is_the_stages_own():
    assert [row["id"] for row in select(ROWS, CONFIG).rows] == [sample["id"] for sample in CHOSEN]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"verdict": ""}, "line 1, row .*: no verdict yet; set it to 'accept', 'edit' or 'reject'"),
        ({"verdict": "maybe"}, "line 1: verdict: Input should be"),
        ({"id": "unknown"}, "is not among the loss filter's rows"),
        ({"answer": "999999"}, "question and answer were checked and may not be changed"),
        ({"verdict": "edit", "reasoning": "So [Calculator(6*7) -> 42] 42."}, "is no call of the original"),
        ({"verdict": "edit", "reasoning": " "}, "empty or holds a layout tag"),
        ({"verdict": "edit", "reasoning": "a</think><answer>1</answer>"}, "empty or holds a layout tag"),
        ({"notes": "?"}, "line 1: notes: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_line(file, changes, message):
    put(file, *accepted(file, **changes))
    with pytest.raises(InputError, match=message):
        read_review(file, ROWS, SYNTAX)


def test_a_changed_result_a_row_twice_and_no_row_at_all_are_errors(file):
    first = lines(file)[0]
    put(file, *accepted(file, verdict="edit", reasoning=first["reasoning"].replace("]", "0]", 1)))
    with pytest.raises(InputError, match="may drop or move calls, not make or change them"):
        read_review(file, ROWS, SYNTAX)
    put(file, {**first, "verdict": "accept"}, {**first, "verdict": "accept"})
    with pytest.raises(InputError, match="stands twice"):
        read_review(file, ROWS, SYNTAX)
    put(file, {**first, "verdict": "reject"})
    with pytest.raises(InputError, match="accepts no row"):
        read_review(file, ROWS, SYNTAX)
    with pytest.raises(InputError, match="cannot read review file"):
        read_review(file.with_name("none"), ROWS, SYNTAX)
