"""A cold start from a person's own samples: checked where they can be, refused with the line where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from agentflow.errors import InputError
from agentflow.models.loading import tokenize_with
from agentflow.records import Segment
from agentflow.schemas import FILTERED
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.toolset import syntax_for
from agentflow.training.encoding import encode_rows
from agentflow.training.review import render, save_rows, select

GOOD = {
    "question": "Mia has 48 clips and sells half of them. How many are left?",
    "reasoning": "Half of 48 is 48/2 = [Calculator(48/2) -> 24] 24, so 24 are left.",
    "answer": "24",
}
OTHER = {"question": "Who is it?", "reasoning": "I look: [Search(who) -> It is Ann.] Ann.", "answer": "Ann"}


def samples(tmp_path: Path, *lines: dict | str) -> ColdStartConfig:
    file = tmp_path / "samples.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return ColdStartConfig(samples=file)


def test_the_samples_are_trained_on_in_the_files_order_with_their_calls(tmp_path, tiny_tokenizer):
    config = samples(tmp_path, GOOD, "", OTHER)
    selection = select([], config)
    assert [row["question"] for row in selection.rows] == [GOOD["question"], OTHER["question"]]
    assert [one["why"] for one in selection.chosen] == ["line 1 of the samples file", "line 3 of the samples file"]
    assert selection.rejected == [] and all(set(row) == set(FILTERED.names) for row in selection.rows)
    syntax = syntax_for(config.prompt.syntax)
    texts = [render([Segment.from_row(s) for s in row["segments"]], syntax) for row in selection.rows]
    assert texts == [GOOD["reasoning"], OTHER["reasoning"]]
    assert selection.rows[0]["reasoning"] == "Half of 48 is 48/2 = 24, so 24 are left."
    encoded, rejects = encode_rows(
        selection.rows, config.prompt, 512, tokenize_with(tiny_tokenizer), tiny_tokenizer.eos_token_id
    )
    assert len(encoded) == 2 and rejects == []
    assert save_rows(selection.rows, tmp_path).is_dir()


def test_a_mistake_can_be_planted_in_them_too(tmp_path):
    config = samples(tmp_path, GOOD, OTHER).model_copy(update={"error_recovery_share": 0.5})
    first, second = select([], config).rows
    assert [s["kind"] for s in first["segments"]].count("mistake") == 1
    assert "mistake" not in [s["kind"] for s in second["segments"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**GOOD, "reasoning": "48/2 = [Calculator(48/2) -> 25] 25."}, "gives 24 for '48/2', not '25'"),
        ({**GOOD, "reasoning": "48/0 = [Calculator(48/0) -> 1] 1."}, "refuses '48/0'"),
        ({**GOOD, "reasoning": "48/2 = [Calculator(48/2) -> ] 24."}, "Calculator"),
        ({**GOOD, "reasoning": "48/2 = [Calculator(48/2 -> 24] 24."}, r"cannot be read.*\[Calculator\(48/2\) -> 24\]"),
        ({**GOOD, "reasoning": " "}, "empty or holds a layout tag"),
        ({**GOOD, "reasoning": "so <answer>24</answer>"}, "empty or holds a layout tag"),
        ({**GOOD, "answer": ""}, "answer: String should have at least 1"),
        ({**GOOD, "extra": 1}, "extra: Extra inputs"),
        ("{", "Invalid JSON"),
        (GOOD, "stands there before"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_line(tmp_path, line, message):
    with pytest.raises(InputError, match=rf"samples\.jsonl', line 2.*{message}"):
        select([], samples(tmp_path, GOOD, line))


def test_no_sample_and_a_hundred_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no row"):
        select([], samples(tmp_path, ""))
    with pytest.raises(InputError, match="holds 100 rows; a cold start has fewer than 100"):
        select([], samples(tmp_path, *({**GOOD, "question": f"{n}?"} for n in range(100))))


def test_a_review_and_samples_are_not_given_at_once(tmp_path):
    file = samples(tmp_path, GOOD).samples
    with pytest.raises(ValidationError, match="give one of them"):
        ColdStartConfig(samples=file, review=file)
