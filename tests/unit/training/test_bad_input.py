"""Bad input is said before training starts, in one message, or counted as a reject."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pipeline_rows import filtered_rows, save
from pydantic import ValidationError

from agentflow.errors import ConfigError, InputError
from agentflow.models.loading import convert, load_model, load_tokenizer
from agentflow.models.sources import TinyModel
from agentflow.rendering import PromptConfig
from agentflow.rewards.composite import CompositeConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SupervisedJob
from agentflow.training.supervised import train_supervised


def job_for(base: Path, rows: Path, out: Path, adapter: Path | None = None, **settings) -> SupervisedJob:
    optimiser = OptimiserSettings(learning_rate=5e-3, batch_size=4, accumulation=1)
    lora = LoraSettings(rank=4, dropout=0.0)
    return SupervisedJob(
        settings=SupervisedSettings(optimiser=optimiser, lora=lora, max_steps=1, **settings),
        prompt=PromptConfig(system="T"),
        rows=rows,
        base=base,
        adapter=adapter,
        out=out,
    )


def test_rows_with_nothing_to_train_on_are_counted_and_the_others_trained(tiny_base, tmp_path):
    rows = filtered_rows(6)
    rows[2] = {**rows[2], "segments": [], "answer": "  "}
    save(rows, tmp_path / "rows")
    summary = train_supervised(job_for(tiny_base, tmp_path / "rows", tmp_path / "out"))
    assert summary.rejects == (
        {"key": rows[2]["id"], "reason": "nothing_to_train", "detail": "neither reasoning nor an answer"},
    )
    assert (summary.rows_in, summary.rows_used) == (6, 5)
    save([rows[2]], tmp_path / "only")
    with pytest.raises(ConfigError, match="none of 1 rows can be trained on: .*nothing_to_train"):
        train_supervised(job_for(tiny_base, tmp_path / "only", tmp_path / "out2"))


@pytest.mark.parametrize("four_bit", [False, True])
def test_an_adapter_of_another_model_is_refused_with_both_names(tiny_base, tmp_path, four_bit):
    save(filtered_rows(4), tmp_path / "rows")
    train_supervised(job_for(tiny_base, tmp_path / "rows", tmp_path / "out"))
    (tmp_path / "other").mkdir()
    convert(TinyModel(hidden=128), tmp_path / "other")
    job = job_for(tmp_path / "other", tmp_path / "rows", tmp_path / "no", tmp_path / "out/adapter", four_bit=four_bit)
    with pytest.raises(InputError, match=r"(?s)adapter '.*/adapter' does not fit base model '.*/other': .*trained on"):
        train_supervised(job)
    assert not (tmp_path / "no" / "adapter").exists()


def test_an_adapter_with_a_truncated_or_missing_file_is_refused(tiny_base, tmp_path):
    save(filtered_rows(4), tmp_path / "rows")
    train_supervised(job_for(tiny_base, tmp_path / "rows", tmp_path / "out"))
    weights = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="does not fit base model"):
        load_model(tiny_base, adapter=weights.parent)
    weights.unlink()
    with pytest.raises(InputError, match=r"lacks \['adapter_model.safetensors'\]"):
        load_model(tiny_base, adapter=weights.parent)


def test_a_model_that_brings_its_own_code_is_refused_and_its_code_never_run(tiny_base, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_base, foreign)
    settings = json.loads((foreign / "config.json").read_text())
    settings["model_type"] = "something_new"
    settings["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (foreign / "config.json").write_text(json.dumps(settings))
    (foreign / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    save(filtered_rows(2), tmp_path / "rows")
    with pytest.raises(InputError, match="brings code of its own"):
        load_model(foreign)
    with pytest.raises(InputError, match="brings code of its own"):
        train_supervised(job_for(foreign, tmp_path / "rows", tmp_path / "out"))
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_needs_no_chat_template_since_the_prompt_is_the_recipes_own(tiny_base, tmp_path):
    assert load_tokenizer(tiny_base).chat_template is None
    save(filtered_rows(4), tmp_path / "rows")
    assert train_supervised(job_for(tiny_base, tmp_path / "rows", tmp_path / "out")).steps == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: CompositeConfig(answer_similarity="cosine"),
            "Input should be 'by_type', 'numeric_em', 'token_f1', 'em', 'bi_encoder' or 'cross_encoder'",
        ),
        (lambda: CompositeConfig(style_weight=1.0), "style_weight\n.*Extra inputs are not permitted"),
        (lambda: CompositeConfig(accuracy_weight=float("nan")), "accuracy_weight"),
        (
            lambda: GrpoConfig(reward={"kind": "best"}),
            "reward\n.*'best' found using 'kind' does not match .*: 'composite', 'toolrl', 'binary', 'mtr'",
        ),
        (lambda: GrpoConfig(reward={"kind": "toolrl", "accuracy_weight": 1}), "reward.toolrl.accuracy_weight\n.*Extra"),
        (
            lambda: GrpoConfig(reward={"kind": "mtr", "format_weight": [1, 2]}),
            "reward.mtr.format_weight\n.*valid number",
        ),
        (lambda: GrpoConfig(reward={"kind": "mtr", "min_calls": 6}), "min_calls 6 is above max_calls 5"),
        (
            lambda: GrpoConfig(reward={"answer_similarity": "bi_encoder"}),
            "'bi_encoder' needs a model; set similarity_m",
        ),
        (
            lambda: GrpoConfig(similarity_model={"kind": "path", "path": "m"}),
            "similarity_model is set and no reward asks",
        ),
        (
            lambda: GrpoConfig(reward={"kind": "mtr"}, generation={"calls": "end"}),
            "'mtr' judges traces with observations, and generation.calls 'end' runs no call",
        ),
        (lambda: GrpoConfig(group_size=6), "= 16 is not a multiple of group_size = 6"),
    ],
)
def test_rewards_and_weights_go_by_name_and_an_unknown_one_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()
