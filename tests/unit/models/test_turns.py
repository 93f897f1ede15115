"""Rollouts a turn at a time: the same tokens as our own engine gives, tools at once, limits, typed failures.

vLLM itself is not here (it needs a GPU). Its place is taken by samplers with the interface TRL gives it: one is a real
model that writes greedily up to a stop string, one follows a script.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_rows import question_rows
from taught_model import teach
from waiting_tools import Broken, Meeting, compact, opened

from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.loading import load_model, load_tokenizer
from agentflow.models.settings import GenerationConfig
from agentflow.models.turns import TurnEngine
from agentflow.rendering import PromptConfig, prompt_head, prompt_turn
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import Tool

PROMPT = PromptConfig(system="T")


class Sampler:
    """What TRL's `VLLMGeneration` offers, as far as it is used; keeps what it was asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.max_completion_length, self.generation_kwargs = 0, {}
        self.asked: list[list[list[int]]] = []

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        assert num_generations == 1 and all(prompts)
        self.asked.append(prompts)
        written = [self.write(ids)[: self.max_completion_length] for ids in prompts]
        return prompts, written, [[[-0.5]] * len(ids) for ids in written], None

    def write(self, ids: list[int]) -> list[int]:
        raise NotImplementedError


class Greedy(Sampler):
    """A real model, greedy, up to its end token or a stop string (kept), as vLLM does."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.model = model

    @torch.inference_mode()
    def write(self, ids: list[int]) -> list[int]:
        new: list[int] = []
        while len(new) < self.max_completion_length:
            new.append(int(self.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
            text = self.tokenizer.decode(new)
            stops = any(stop in text for stop in self.generation_kwargs.get("stop", []))
            if new[-1] == self.tokenizer.eos_token_id or stops:
                break
        return new


class Scripted(Sampler):
    """Writes the next piece after as many results as the row has read; the last one ends it."""

    def __init__(self, tokenizer: Any, scripts: dict[str, list[str]]) -> None:
        super().__init__(tokenizer)
        self.scripts = scripts

    def write(self, ids: list[int]) -> list[int]:
        text = self.tokenizer.decode(ids)
        (prompt,) = [prompt for prompt in self.scripts if text.startswith(prompt)]
        pieces, read = self.scripts[prompt], text.count("]")
        end = [self.tokenizer.eos_token_id] if read == len(pieces) - 1 else []
        return self.tokenizer(pieces[read], add_special_tokens=False)["input_ids"] + end


def play(tokenizer: Any, scripts: dict[str, list[str]], *tools: Tool, **settings: Any) -> tuple[list[Any], Scripted]:
    sampler = Scripted(tokenizer, scripts)
    with ToolRunner(opened(*tools)) as runner:
        engine = TurnEngine(sampler, tokenizer, compact(*tools), runner, GenerationConfig(**settings))
        return engine.run(list(scripts)), sampler


@pytest.fixture(scope="module")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    teach(tiny_base, folder, [row for row in question_rows(4) if row["split"] == "train"], PROMPT, steps=80)
    return folder / "base"


def test_greedy_rollouts_are_those_of_our_own_engine_token_for_token(taught):
    model, tokenizer = load_model(taught).eval(), load_tokenizer(taught)
    questions = [row["question"] for row in question_rows(4) if row["split"] == "train"]
    prompts, head = [prompt_turn(question, PROMPT) for question in questions], prompt_head(PROMPT)
    config = GenerationConfig(max_new_tokens=60)
    with ToolRunner(opened(Calculator())) as runner:
        ours = RolloutEngine(model, tokenizer, compact(Calculator()), runner, config).run(prompts, head=head)
        turns = TurnEngine(Greedy(model, tokenizer), tokenizer, compact(Calculator()), runner, config)
        theirs = turns.run(prompts, head=head)
    assert any(rollout.results for rollout in ours), "the model calls"
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.prompt_ids, mine.completion_ids) == (other.prompt_ids, other.completion_ids)
        assert (mine.model_written, mine.text, mine.calls) == (other.model_written, other.text, other.calls)
        assert (mine.results, mine.finished, mine.failure) == (other.results, other.finished, other.failure)
        assert mine.injected == other.injected and len(mine.injected) == len(mine.results)


def test_the_calls_of_a_turn_run_at_once_and_every_row_goes_on_from_its_own_tokens(tiny_tokenizer):
    meeting = Meeting(3)
    scripts = {name: [f"I meet [Meeting({name}) ->", " done"] for name in ("one", "two", "ten")}
    rollouts, sampler = play(tiny_tokenizer, scripts, meeting)
    assert meeting.together == 3
    for name, rollout in zip(scripts, rollouts, strict=True):
        assert rollout.text == f"I meet [Meeting({name}) -> met {name}] done" and rollout.finished
        assert len(rollout.completion_ids) == len(rollout.model_written) == len(rollout.logprobs)
        injected = [token for token, own in zip(rollout.completion_ids, rollout.model_written, strict=True) if not own]
        assert tiny_tokenizer.decode(injected) == f" met {name}]"
        own = [p for p, mine in zip(rollout.logprobs, rollout.model_written, strict=True) if mine]
        assert set(own) == {-0.5}
    first, second = sampler.asked
    assert [ids[: len(start)] for ids, start in zip(second, first, strict=True)] == first


def test_a_failed_tool_ends_its_row_with_the_failures_kind_and_the_others_go_on(tiny_tokenizer):
    scripts = {"a": ["[Broken(network) ->", "never"], "b": ["fine"]}
    (failed, fine), sampler = play(tiny_tokenizer, scripts, Broken())
    assert (failed.failure, failed.finished, failed.results) == ("connection", False, ())
    assert (fine.failure, fine.finished, fine.text) == (None, True, "fine")
    assert len(sampler.asked) == 1, "nothing is left to sample"


def test_a_call_beyond_the_limit_and_a_row_without_room_end_unfinished(tiny_tokenizer):
    scripts = {"a": ["[Calculator(1+1) ->", "[Calculator(2+2) ->", "never"]}
    (rollout,), _ = play(tiny_tokenizer, scripts, Calculator(), max_calls=1)
    assert (len(rollout.calls), len(rollout.results), rollout.finished) == (2, 1, False)
    (cut,), sampler = play(tiny_tokenizer, {"a": ["a long piece without any end"]}, Calculator(), max_new_tokens=5)
    assert len(cut.completion_ids) == 5 and not cut.finished
    (filled,), _ = play(tiny_tokenizer, {"a": ["[Calculator(1+1) ->", "no"]}, Calculator(), max_new_tokens=13)
    assert len(filled.completion_ids) <= 13 and not filled.finished


def test_a_malformed_call_is_no_call_and_the_model_goes_on(tiny_tokenizer):
    """An arrow in the reasoning stops the sampler; without a call in front of it the row is simply sampled on."""
    sampler = Scripted(tiny_tokenizer, {"a": ["x ->"]})
    pieces = iter([tiny_tokenizer("x ->", add_special_tokens=False)["input_ids"], [tiny_tokenizer.eos_token_id]])
    sampler.write = lambda ids: next(pieces)  # type: ignore[method-assign]
    with ToolRunner(opened(Calculator())) as runner:
        engine = TurnEngine(sampler, tiny_tokenizer, compact(Calculator()), runner, GenerationConfig())
        (rollout,) = engine.run(["a"])
    assert rollout.text == "x ->" and rollout.finished and not rollout.calls
    assert sampler.generation_kwargs == {"stop": ["->"], "include_stop_str_in_output": True}


def test_workers_that_sample_together_ask_for_equally_many_rows_equally_often(tiny_tokenizer):
    """This worker has one row left where another has three, then none where the other has one."""
    others = iter([3, 1, 0])
    sampler = Scripted(tiny_tokenizer, {"a": ["done"]})
    engine = TurnEngine(
        sampler, tiny_tokenizer, compact(Calculator()), None, GenerationConfig(), lambda n: max(n, next(others))
    )
    (rollout,) = engine.run(["a"])
    assert [len(ids) for ids in sampler.asked] == [3, 1]
    assert rollout.text == "done" and rollout.completion_ids[-1] == tiny_tokenizer.eos_token_id


def test_a_probability_that_the_sampler_does_not_know_is_nan_and_not_a_number_of_ours(tiny_tokenizer):
    sampler = Scripted(tiny_tokenizer, {"a": ["done"]})
    whole = sampler.generate
    sampler.generate = lambda *given: (*whole(*given)[:2], None, None)  # type: ignore[method-assign]
    engine = TurnEngine(sampler, tiny_tokenizer, compact(Calculator()), None, GenerationConfig())
    (rollout,) = engine.run(["a"])
    assert rollout.logprobs and all(math.isnan(logprob) for logprob in rollout.logprobs)
