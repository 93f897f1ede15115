"""Error-recovery traces: a refused call that carries no loss, and the right one behind it that does."""

from __future__ import annotations

import pytest
from pipeline_rows import filtered_rows
from pydantic import ValidationError

from agentflow.insertion.splice import plain_text
from agentflow.mask import IGNORED
from agentflow.models.loading import tokenize_with
from agentflow.records import Segment
from agentflow.rendering import PromptConfig, parse_completion
from agentflow.stages.cold_start import ColdStartConfig, choose
from agentflow.toolset import syntax_for
from agentflow.training.encoding import encode_rows, row_spans
from agentflow.training.recovery import MISTAKES, plant_mistakes
from agentflow.training.review import save_rows, select

ROWS = filtered_rows(20)
SYNTAXES = {name: syntax_for(name) for name in ("compact", "json")}


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_refused_call_stands_before_the_right_one_and_changes_nothing_else(name):
    planted = plant_mistakes(ROWS, 1.0, SYNTAXES[name])
    assert set(planted) == {row["id"] for row in ROWS}
    shapes = set()
    for row in ROWS:
        segments = [Segment.from_row(segment) for segment in planted[row["id"]]["segments"]]
        (place,) = [i for i, segment in enumerate(segments) if segment.kind == "mistake"]
        mistake, right = segments[place], segments[place + 1]
        assert mistake.result.text.startswith("error: ") and mistake.result.error
        expression = right.call.arguments["expression"]
        shapes |= {shape for shape in MISTAKES if shape.format(expression) == mistake.call.arguments["expression"]}
        del segments[place]
        assert [segment.to_row() for segment in segments] == [Segment.from_row(s).to_row() for s in row["segments"]]
        assert plain_text(segments) == row["reasoning"]
        assert {**planted[row["id"]], "segments": None} == {**row, "segments": None}
    assert len(shapes) >= 3, "mistakes of several kinds"


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_wrong_call_carries_no_loss_and_the_right_one_does(name, tiny_tokenizer):
    prompt = PromptConfig(system="T", syntax=name)
    row = next(iter(plant_mistakes(ROWS, 1.0, SYNTAXES[name]).values()))
    spans = row_spans(row, prompt)
    roles = [span.role for span in spans]
    at = roles.index("mistake")
    assert roles[at : at + 4] == ["mistake", "result", "call", "result"]
    tokenize = tokenize_with(tiny_tokenizer)
    (encoded,), rejects = encode_rows([row], prompt, 4096, tokenize, tiny_tokenizer.eos_token_id)
    start = sum(len(tokenize(span.text)) for span in spans[:at])
    lengths = [len(tokenize(span.text)) for span in spans[at : at + 3]]
    labels = encoded["labels"][start : start + sum(lengths)]
    untrained, trained = labels[: lengths[0] + lengths[1]], labels[lengths[0] + lengths[1] :]
    assert set(untrained) == {IGNORED} and IGNORED not in trained and rejects == []
    text = "".join(span.text for span in spans if span.role != "prompt")
    assert parse_completion(text, SYNTAXES[name]).well_formed


def test_a_share_of_the_cold_starts_samples_gets_one_and_says_so(tmp_path):
    plain = ColdStartConfig(n_samples=8, min_words=1)
    config = plain.model_copy(update={"error_recovery_share": 0.25})
    selection = select(ROWS, config)
    with_mistake = {row["id"] for row in selection.rows if any(s["kind"] == "mistake" for s in row["segments"])}
    assert len(with_mistake) == 2
    told = {sample["id"] for sample in selection.chosen if "a refused call stands before" in sample["why"]}
    assert told == with_mistake
    assert [sample["id"] for sample in selection.chosen] == [sample["id"] for sample in choose(ROWS, plain)]
    assert select(ROWS[::-1], config).rows == selection.rows, "the same ones every time"
    assert save_rows(selection.rows, tmp_path).is_dir()
    assert select(ROWS, plain).rows == [next(r for r in ROWS if r["id"] == c["id"]) for c in choose(ROWS, plain)]


def test_rows_without_a_calculator_call_get_none():
    searched = [{**row, "segments": [s for s in row["segments"] if s["kind"] == "text"]} for row in ROWS]
    assert plant_mistakes(searched, 1.0, SYNTAXES["compact"]) == {}


def test_reviewed_rows_are_not_changed(tmp_path):
    with pytest.raises(ValidationError, match="error_recovery_share 0.5 would change rows of the review file; set it"):
        ColdStartConfig(error_recovery_share=0.5, review=tmp_path / "review.jsonl")
