"""Supervised fine-tuning of the tiny model, really trained through TRL: what is learnt, what is left out, what is left
behind.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_rows import filtered_rows, save
from safetensors.torch import load_file

from agentflow.errors import ConfigError
from agentflow.mask import IGNORED
from agentflow.models.loading import load_model, load_tokenizer, tokenize_with
from agentflow.progress import read_progress
from agentflow.rendering import PromptConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.encoding import encode_rows as encode_with
from agentflow.training.jobs import SUMMARY, SupervisedJob, TrainingSummary
from agentflow.training.supervised import train_supervised

ROWS = 16


def encode_rows(rows, job, tokenizer):
    return encode_with(rows, job.prompt, job.settings.max_length, tokenize_with(tokenizer), tokenizer.eos_token_id)


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory) -> Path:
    return save(filtered_rows(ROWS), tmp_path_factory.mktemp("rows") / "rows")


def job_for(base, rows_folder, out, *, batch=4, accumulation=1, adapter=None, row_ids=None, progress=None, **settings):
    optimiser = OptimiserSettings(
        learning_rate=5e-3, schedule="constant", warmup_ratio=0.0, batch_size=batch, accumulation=accumulation
    )
    return SupervisedJob(
        settings=SupervisedSettings(
            **{"optimiser": optimiser, "lora": LoraSettings(rank=8, dropout=0.0), "max_steps": 3, **settings}
        ),
        prompt=PromptConfig(),
        rows=rows_folder,
        row_ids=row_ids,
        base=base,
        adapter=adapter,
        out=out,
        progress=progress,
    )


@pytest.fixture(scope="module")
def trained(tiny_base, rows_folder, tmp_path_factory):
    """Five steps of batch 4, once for several tests."""
    out = tmp_path_factory.mktemp("sft")
    job = job_for(tiny_base, rows_folder, out, max_steps=5, progress=out / "progress.json")
    return job, train_supervised(job)


def losses(summary: TrainingSummary) -> list[float]:
    return [entry["loss"] for entry in summary.log if "loss" in entry]


def test_the_loss_falls(trained):
    _, summary = trained
    assert summary.steps == 5 and len(losses(summary)) == 5
    assert losses(summary)[-1] < losses(summary)[0] - 0.05


def test_the_summary_says_what_was_done(trained):
    job, summary = trained
    assert TrainingSummary.model_validate_json((job.out / SUMMARY).read_text()) == summary
    assert (summary.rows_in, summary.rows_used, summary.rejects) == (ROWS, ROWS, ())
    assert summary.tokens_per_row and summary.tokens_per_row > 50
    progress = read_progress(job.out / "progress.json")
    assert progress is not None and (progress["done"], progress["total"]) == (5, 5)


def test_the_adapter_is_safetensors_and_means_the_same_on_any_machine(trained, tiny_base):
    job, summary = trained
    suffixes = {path.suffix for path in job.adapter_out.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".md"}
    settings = json.loads((job.adapter_out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    assert str(tiny_base) not in (job.adapter_out / "adapter_config.json").read_text()
    weights = load_file(job.adapter_out / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == summary.trainable_parameters
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    assert {name.split(".")[-3] for name in weights} == set(job.settings.lora.targets)


def test_a_trained_adapter_can_be_loaded_merged_and_trained_on(trained, tiny_base, rows_folder, tmp_path):
    job, summary = trained
    assert type(load_model(tiny_base, adapter=job.adapter_out, merge=True)) is type(load_model(tiny_base))
    further = train_supervised(job_for(tiny_base, rows_folder, tmp_path, adapter=job.adapter_out, max_steps=1))
    assert losses(further)[0] < losses(summary)[0] - 0.05, "it goes on where the adapter was left"
    before, after = (load_file(out / "adapter_model.safetensors") for out in (job.adapter_out, tmp_path / "adapter"))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_one_row_at_a_time_with_accumulation_equals_one_batch(tiny_base, rows_folder, tmp_path):
    whole = train_supervised(job_for(tiny_base, rows_folder, tmp_path / "whole", batch=4, accumulation=1))
    parts = train_supervised(job_for(tiny_base, rows_folder, tmp_path / "parts", batch=1, accumulation=4))
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)


def test_the_first_loss_is_the_mean_over_trained_tokens_alone(tiny_base, tiny_model, rows_folder, tmp_path):
    import torch
    from datasets import load_from_disk

    job = job_for(tiny_base, rows_folder, tmp_path, max_steps=1, batch=ROWS)
    encoded, _ = encode_rows(load_from_disk(str(rows_folder)).to_list(), job, load_tokenizer(tiny_base))
    total = count = 0.0
    for row in encoded:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logprobs = torch.log_softmax(tiny_model(ids).logits[0], dim=-1)
        for i in (labels != IGNORED).nonzero().flatten().tolist():
            total -= logprobs[i - 1, labels[i]].item()
            count += 1
    assert losses(train_supervised(job))[0] == pytest.approx(total / count, abs=1e-3)


def test_a_row_that_is_too_long_is_rejected_with_its_length_and_the_others_are_trained_on(
    tiny_base, rows_folder, tmp_path
):
    from datasets import load_from_disk

    rows = load_from_disk(str(rows_folder)).to_list()
    job = job_for(tiny_base, rows_folder, tmp_path, max_steps=1)
    encoded, _ = encode_rows(rows, job, load_tokenizer(tiny_base))
    limit = sorted(len(row["input_ids"]) for row in encoded)[-3]
    long = [row["id"] for row, tokens in zip(rows, encoded, strict=True) if len(tokens["input_ids"]) > limit]
    summary = train_supervised(job_for(tiny_base, rows_folder, tmp_path, max_steps=1, max_length=limit))
    assert {reject["key"] for reject in summary.rejects} == set(long) != set()
    for reject in summary.rejects:
        assert reject["reason"] == "too_long" and reject["detail"].endswith(f"tokens, at most {limit}")
    assert summary.rows_in == ROWS == summary.rows_used + len(summary.rejects)


def test_no_row_that_can_be_trained_on_is_an_error_that_says_what_to_do(tiny_base, rows_folder, tmp_path):
    job = job_for(tiny_base, rows_folder, tmp_path, max_length=8)
    with pytest.raises(ConfigError, match=rf"none of {ROWS} rows can be trained on: .*too_long.*raise max_length"):
        train_supervised(job)


def test_chosen_rows_are_trained_on_in_the_given_order(tiny_base, rows_folder, tmp_path):
    ids = tuple(row["id"] for row in filtered_rows(ROWS))[5:1:-1]
    summary = train_supervised(job_for(tiny_base, rows_folder, tmp_path, row_ids=ids, max_steps=1))
    assert (summary.rows_in, summary.rows_used) == (4, 4)


def test_no_prompt_and_no_result_token_is_trained_on(tiny_base, rows_folder, tmp_path):
    job = job_for(tiny_base, rows_folder, tmp_path)
    tokenizer = load_tokenizer(tiny_base)
    rows = filtered_rows(ROWS)
    encoded, _ = encode_rows(rows, job, tokenizer)
    for row, tokens in zip(rows, encoded, strict=True):
        written = tokenizer.decode([label for label in tokens["labels"] if label != IGNORED])
        assert row["question"] not in written and written.endswith("</answer><|im_end|>")
        assert written.count("[Calculator(") == written.count(") ->") == row["n_calls"] and "]" not in written
        everything = tokenizer.decode(tokens["input_ids"])
        assert everything.count("]") >= row["n_calls"] and row["question"] in everything


def test_four_bit_base_weights_can_be_trained_on(tiny_base, rows_folder, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    import torch

    try:
        bitsandbytes.functional.quantize_4bit(torch.zeros(64, 64), quant_type="nf4")
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"bitsandbytes cannot quantise on this machine: {error}")
    summary = train_supervised(job_for(tiny_base, rows_folder, tmp_path, four_bit=True, max_steps=2))
    assert summary.steps == 2 and all(loss > 0 for loss in losses(summary))
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)


def test_a_worker_that_trains_alone_although_others_should_is_found_out(tiny_base, rows_folder, tmp_path):
    job = job_for(tiny_base, rows_folder, tmp_path).model_copy(update={"workers": 2})
    with pytest.raises(AssertionError, match="training runs with 1 processes instead of 2"):
        train_supervised(job)
