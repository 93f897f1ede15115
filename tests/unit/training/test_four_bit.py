"""A base that is held in NF4 wherever it is used, on the CPU: loaded, adapted, scored with, sampled from, trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Params4bit
from pipeline_rows import filtered_rows, question_rows, save
from taught_model import teach

from agentflow.access import Access
from agentflow.models.filtering import RowScorer
from agentflow.models.generate import RolloutEngine
from agentflow.models.loading import HOLDING, convert, held_in_four_bits, load_model, load_tokenizer
from agentflow.models.settings import GenerationConfig
from agentflow.models.sources import TinyModel
from agentflow.rendering import PromptConfig
from agentflow.schemas import QUESTIONS
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.stages.loss_filter import LossFilterConfig
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import MERGED, PolicyJob, SupervisedJob
from agentflow.training.policy import train_policy
from agentflow.training.supervised import train_supervised, trainable_model

PROMPT = PromptConfig(system="T")


def quantised(model) -> list[Params4bit]:
    return [p for p in model.parameters() if isinstance(p, Params4bit)]


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("held")
    convert(TinyModel(), folder, four_bit=True)
    return folder


def test_the_artifact_says_how_its_weights_are_held_and_loading_obeys(held, tiny_base):
    assert held_in_four_bits(held) and not held_in_four_bits(tiny_base)
    model = load_model(held)
    assert len(quantised(model)) == 2 * 7, "seven linear layers in each of two"
    assert model.dtype == torch.float32 and not quantised(load_model(held, four_bit=False))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        four, whole = model(ids).logits.flatten(), load_model(tiny_base)(ids).logits.flatten()
    assert torch.corrcoef(torch.stack([four, whole]))[0, 1] > 0.95, "about the same model"


def test_it_is_scored_with_and_sampled_from(held):
    model, tokenizer = load_model(held).eval(), load_tokenizer(held)
    engine = RolloutEngine(model, tokenizer, syntax_for("compact"), None, GenerationConfig(max_new_tokens=6))
    assert len(engine.run(["1+1?"])[0].completion_ids) <= 6
    scorer = RowScorer(model, tokenizer, LossFilterConfig(n_examples=0))
    rows = filtered_rows(2)
    plan = scorer.plan(rows)
    by_id = {row["id"]: row for row in rows}
    scores = scorer.score([[by_id[i] for i in batch] for shard in plan.shards for batch in shard])
    assert scores and not plan.refused


def test_it_is_trained_on_and_an_adapter_is_never_merged_into_four_bits(held, tmp_path):
    save(filtered_rows(8), tmp_path / "rows")
    settings = SupervisedSettings(
        lora=LoraSettings(rank=4), optimiser=OptimiserSettings(batch_size=4, accumulation=1), max_steps=2,
        merged_export=True,
    )  # fmt: skip
    job = SupervisedJob(settings=settings, prompt=PROMPT, rows=tmp_path / "rows", base=held, out=tmp_path / "out")
    assert train_supervised(job).steps == 2
    both = load_model(held, adapter=job.adapter_out, merge=True)
    assert quantised(both) and hasattr(both, "peft_config")
    assert not quantised(load_model(tmp_path / "out" / MERGED)), "the merged export is whole"


@pytest.mark.parametrize("fresh", [True, False])
def test_gradients_are_the_same_after_a_pass_in_evaluation_mode(held, tmp_path, fresh):
    """On CPUs with bf16 units bitsandbytes repacks weights for inference, and no gradient passes them any more."""
    settings = SupervisedSettings(lora=LoraSettings(rank=4, dropout=0.0))
    model = trainable_model(held, None, settings)
    if not fresh:
        model.save_pretrained(str(tmp_path))
        model = load_model(held, adapter=tmp_path, trainable=True)
    ids = torch.tensor([[5, 6, 7, 8]])

    def gradients() -> dict[str, torch.Tensor]:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    model.eval()
    with torch.inference_mode():
        model(input_ids=ids)
    after = gradients()
    assert before.keys() == after.keys() and any(gradient.abs().max() > 0 for gradient in before.values())
    for name in before:
        assert torch.allclose(before[name], after[name], atol=1e-6), name


def test_a_policy_on_it_learns(held, tiny_base, tmp_path):
    questions = [row for row in question_rows(4) if row["split"] == "train"]
    teach(tiny_base, tmp_path, questions, PROMPT, steps=80)
    save(questions, tmp_path / "questions", QUESTIONS)
    shutil.copy(held / HOLDING, tmp_path / "base")
    config = GrpoConfig(
        prompt=PROMPT, tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=40), steps=2, group_size=4,
        optimiser=OptimiserSettings(learning_rate=1e-3, batch_size=4, accumulation=2, warmup_ratio=0.0),
    )  # fmt: skip
    job = PolicyJob(
        config=config,
        questions=tmp_path / "questions",
        question_ids=tuple(row["id"] for row in choose_prompts(questions, config, workers=1)),
        base=tmp_path / "base",
        adapter=tmp_path / "adapter",
        access=Access(ledger_url=str(tmp_path / "never-opened.db"), run_id="run"),
        out=tmp_path / "out",
    )
    summary = train_policy(job)
    assert summary.steps == 2 and summary.extra["adapter_before"] != summary.extra["adapter_after"]
