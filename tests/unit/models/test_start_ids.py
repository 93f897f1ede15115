"""A model whose tokenizer begins a text with BOS (Llama, Gemma) reads it everywhere, once, and never trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_rows import filtered_rows, tool_trace_rows
from tokenizers import processors

from agentflow.mask import IGNORED
from agentflow.models.generate import RolloutEngine
from agentflow.models.heads import SharedHead
from agentflow.models.loading import load_tokenizer, start_ids, tokenize_with
from agentflow.models.scoring import LossScorer, make_pair
from agentflow.models.settings import GenerationConfig
from agentflow.models.turns import TurnEngine
from agentflow.rendering import PromptConfig
from agentflow.stages.loss_filter import LossFilterConfig, scorer_input, shared_prefix
from agentflow.toolset import syntax_for
from agentflow.training.encoding import encode_rows

BOS = "<|endoftext|>"
# Of the tiny tokenizer's special tokens the one that no layout writes.


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    """The tiny model's, made to begin its texts as Llama's does."""
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.bos_token = BOS
    template = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def test_only_a_tokenizer_that_puts_bos_before_a_text_has_start_ids(tokenizer: Any, tiny_base: Path) -> None:
    plain = load_tokenizer(tiny_base)
    assert plain.bos_token_id is not None and start_ids(plain) == []
    assert start_ids(tokenizer) == [tokenizer.bos_token_id]
    plain.bos_token = None
    assert start_ids(plain) == []


def test_training_rows_begin_with_it_and_do_not_train_on_it(tokenizer: Any) -> None:
    rows, start = filtered_rows(4), start_ids(tokenizer)
    with_bos, _ = encode_rows(rows, PromptConfig(), 4096, tokenize_with(tokenizer), tokenizer.eos_token_id, start)
    without, _ = encode_rows(rows, PromptConfig(), 4096, tokenize_with(tokenizer), tokenizer.eos_token_id)
    for row, other in zip(with_bos, without, strict=True):
        assert row["input_ids"] == [*start, *other["input_ids"]] and row["input_ids"].count(start[0]) == 1
        assert row["labels"] == [IGNORED, *other["labels"]]


@pytest.mark.parametrize("head", ["System: think.\n", ""])
def test_rollouts_begin_with_it_behind_a_shared_head_or_none(tokenizer: Any, tiny_model: Any, head: str) -> None:
    config, syntax = GenerationConfig(max_new_tokens=4), syntax_for("compact")
    prompts = ["What is 2 + 3?", "What is 4?"]
    rollouts = RolloutEngine(tiny_model, tokenizer, syntax, None, config).run(prompts, head=head)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        assert rollout.prompt_ids == tokenizer(head)["input_ids"] + tokenize_with(tokenizer)(prompt)
        ids = torch.tensor([rollout.prompt_ids])
        with torch.inference_mode():
            first = tiny_model(ids).logits[0, -1].argmax().item()
        assert rollout.completion_ids[0] == first  # what the model was shown, and not only what the rollout says


def test_turns_begin_with_it(tokenizer: Any) -> None:
    class Sampler:
        max_completion_length = 0
        asked: list[list[int]]

        def __init__(self) -> None:
            self.generation_kwargs: dict[str, Any] = {}

        def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
            self.asked = prompts
            return prompts, [[tokenizer.eos_token_id] for _ in prompts], None, None

    sampler = Sampler()
    engine = TurnEngine(sampler, tokenizer, syntax_for("compact"), None, GenerationConfig(max_new_tokens=4))
    (rollout,) = engine.run(["What is 4?"], head="System\n")
    assert sampler.asked == [rollout.prompt_ids]
    assert rollout.prompt_ids == tokenizer("System\n")["input_ids"] + tokenize_with(tokenizer)("What is 4?")


@pytest.mark.parametrize("prefixed", [True, False])
def test_losses_are_those_behind_it(tokenizer: Any, tiny_model: Any, prefixed: bool) -> None:
    config = LossFilterConfig()
    (row,) = tool_trace_rows(1)
    pair = make_pair(row["id"], *scorer_input(row, config), tokenizer)
    prefix = shared_prefix(config) if prefixed else ""
    (loss,) = LossScorer(tiny_model, tokenizer, prefix).score([pair])

    def mean_loss(before: list[int]) -> float:
        ids = torch.tensor([before + pair.plain.input_ids])
        with torch.inference_mode():
            logprobs = torch.log_softmax(tiny_model(ids).logits[0].double(), dim=-1)
        places = [len(before) + position for position in pair.plain.common]
        return sum(-logprobs[place - 1, ids[0, place]].item() for place in places) / len(places)

    assert loss.plain == pytest.approx(mean_loss(tokenizer(prefix)["input_ids"]), abs=1e-4)


def test_a_shared_head_is_what_the_tokenizer_makes_of_a_text_with_bos(tokenizer: Any, tiny_model: Any) -> None:
    for text in ("System: think.\n", ""):
        assert SharedHead(tiny_model, tokenizer, text).ids == tokenizer(text)["input_ids"]
