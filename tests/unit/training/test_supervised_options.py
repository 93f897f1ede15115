"""Options of supervised training on the tiny model: packing, held-out rows, early stop, merged export, trackers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipeline_rows import filtered_rows, save

from agentflow.errors import ConfigError
from agentflow.models.loading import load_model, load_tokenizer
from agentflow.rendering import PromptConfig
from agentflow.training.config import EvaluationSettings, LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.encoding import pack, packed, split_for_evaluation
from agentflow.training.jobs import MERGED, SupervisedJob, TrainingSummary
from agentflow.training.supervised import train_supervised

ROWS = 16
PROMPT = PromptConfig(system="T")


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory) -> Path:
    return save(filtered_rows(ROWS), tmp_path_factory.mktemp("rows") / "rows")


def train(base, rows_folder, out, *, optimiser=None, events=None, **settings) -> TrainingSummary:
    common = {"learning_rate": 5e-3, "schedule": "constant", "warmup_ratio": 0.0, "batch_size": 4, "accumulation": 1}
    job = SupervisedJob(
        settings=SupervisedSettings(
            **{
                "lora": LoraSettings(rank=8, dropout=0.0),
                "max_steps": 2,
                **settings,
                "optimiser": OptimiserSettings(**{**common, **(optimiser or {})}),
            }
        ),
        prompt=PROMPT,
        rows=rows_folder,
        base=base,
        out=out,
        events=events,
    )
    return train_supervised(job)


def values(summary: TrainingSummary, name: str) -> list[float]:
    return [entry[name] for entry in summary.log if name in entry]


# ---------------------------------------------------------------- packing
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_every_row_stands_whole_in_exactly_one_pack(lengths):
    packs = pack(lengths, 50)
    assert sorted(row for rows in packs for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= 50 for rows in packs)
    assert len(packs) <= 1 + 2 * sum(lengths) // 50, "at least every second pack is more than half full"


def test_a_pack_holds_its_rows_and_their_borders():
    rows = [{"input_ids": [i] * n, "labels": [-100, *[i] * (n - 1)]} for i, n in enumerate((3, 5, 2))]
    (whole,) = packed(rows, 10)
    assert whole == {
        "input_ids": [1] * 5 + [0] * 3 + [2] * 2,
        "labels": [-100, 1, 1, 1, 1, -100, 0, 0, -100, 2],
        "seq_lengths": [5, 3, 2],
    }


def test_packed_rows_have_the_losses_of_the_same_rows_apart(tiny_base, rows_folder, tmp_path):
    apart = train(tiny_base, rows_folder, tmp_path / "apart", optimiser={"batch_size": ROWS})
    together = train(
        tiny_base, rows_folder, tmp_path / "packed", optimiser={"batch_size": 1}, packing=True, max_length=100_000
    )
    assert together.extra == {"sequences": 1}
    assert values(together, "loss") == pytest.approx(values(apart, "loss"), abs=1e-4)
    assert values(together, "grad_norm") == pytest.approx(values(apart, "grad_norm"), abs=1e-3)


# ---------------------------------------------------------------- held-out rows
def test_all_samples_of_a_question_are_on_one_side_whatever_their_order():
    rows = [{"id": f"q{i // 2}#{i % 2}", "question_id": f"q{i // 2}"} for i in range(200)]
    kept, held = split_for_evaluation(rows, 0.2, seed=0)
    assert {row["question_id"] for row in kept}.isdisjoint(row["question_id"] for row in held)
    assert 20 <= len(held) <= 60 and len(kept) + len(held) == 200
    assert split_for_evaluation(rows[::-1], 0.2, seed=0)[1] == held[::-1]
    assert split_for_evaluation(rows, 0.0, seed=0) == (rows, [])
    assert split_for_evaluation(rows, 0.2, seed=1)[1] != held


def test_held_out_rows_are_evaluated_and_training_stops_when_they_get_no_better(tiny_base, rows_folder, tmp_path):
    evaluation = EvaluationSettings(share=0.3, every=1, patience=1)
    summary = train(
        tiny_base,
        rows_folder,
        tmp_path,
        optimiser={"learning_rate": 10.0},  # so high that the second evaluation is worse
        evaluation=evaluation,
        max_steps=8,
    )
    assert summary.steps < 8
    measured = values(summary, "eval_loss")
    assert len(measured) == summary.steps and measured[-1] > min(measured)
    assert 0 < summary.extra["rows_held_out"] < ROWS and summary.rows_used == ROWS


def test_an_evaluation_share_that_leaves_a_side_empty_is_an_error(tiny_base, tmp_path):
    rows = save(filtered_rows(1), tmp_path / "one")
    with pytest.raises(ConfigError, match=r"evaluation\.share 0\.1 leaves 1 rows to train on and 0 to evaluate on"):
        train(tiny_base, rows, tmp_path / "out", evaluation=EvaluationSettings(share=0.1))
    with pytest.raises(ValueError, match="patience 2 needs rows to evaluate on; set share above 0"):
        EvaluationSettings(patience=2)


# ---------------------------------------------------------------- what is left behind
def test_the_merged_export_is_one_model_that_says_what_base_and_adapter_say(tiny_base, rows_folder, tmp_path):
    train(tiny_base, rows_folder, tmp_path / "out", merged_export=True, events=tmp_path / "events")
    merged = tmp_path / "out" / MERGED
    assert {path.suffix for path in merged.iterdir()} <= {".safetensors", ".json", ".jinja"}
    ids = torch.tensor([load_tokenizer(merged)("Mia has 48 clips")["input_ids"]])
    with torch.no_grad():
        alone = load_model(merged)(ids).logits
        both = load_model(tiny_base, adapter=tmp_path / "out" / "adapter")(ids).logits
    assert torch.allclose(alone, both, atol=1e-4)
    assert list((tmp_path / "events").glob("events.out.tfevents.*")), "TensorBoard is always written"


# ---------------------------------------------------------------- said before training starts
@pytest.mark.parametrize(
    "optimiser, message",
    [
        ({"report_to": ("wandb",)}, "'wandb', which is not installed"),
        ({"device": "cuda"}, "'cuda' and this process sees no CUDA GPU"),
    ],
)
def test_what_is_asked_for_and_not_there_is_said_at_once(tiny_base, rows_folder, tmp_path, optimiser, message):
    if "device" in optimiser and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=message):
        train(tiny_base, rows_folder, tmp_path / "out", optimiser=optimiser)
    assert not (tmp_path / "out").exists(), "nothing was begun"
