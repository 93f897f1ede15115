"""Toolformer's sampling: the places are where the model itself would call, and whatever it writes there is a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taught_model import teach

from agentflow.examples import examples_head
from agentflow.insertion.splice import Insertion, plain_text, splice
from agentflow.models.call_sampling import CallSampler
from agentflow.models.loading import load_model, load_tokenizer
from agentflow.records import Segment, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, prompt_turn
from agentflow.stages.tool_insertion import SamplingConfig
from agentflow.toolset import syntax_for

QUESTIONS = [{"question": "How much is 1 plus 1?"}, {"question": "And 1 plus 1 pens?"}]
TAUGHT = [
    Segment("text", text="It is 1+1 ="),
    Segment("call", call=ToolCall("Calculator", {"expression": "1+1"}), result=ToolResult("2")),
    Segment("text", text=" 2."),
]
NO_HEAD = SamplingConfig(n_examples=0, k=2, m=3, temperature=0.2)


def row(reasoning: str, question: str = QUESTIONS[0]["question"]) -> dict[str, Any]:
    return {"id": "toy#0", "question": question, "reasoning": reasoning}


@pytest.fixture(scope="module")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny model that has learnt to call the calculator behind "1+1 =", and its tokenizer."""
    folder = tmp_path_factory.mktemp("taught")
    teach(tiny_base, folder, QUESTIONS, PromptConfig(), 90, TAUGHT)
    return load_model(folder / "base").eval(), load_tokenizer(folder / "base")


@pytest.mark.parametrize("name", ["compact", "json"])
def test_p_of_a_call_is_the_probability_of_its_opener_at_that_place(
    tiny_model: Any, tiny_tokenizer: Any, name: Any
) -> None:
    prompt = PromptConfig(syntax=name)
    config = SamplingConfig(tau_s=0.0, k=4, n_examples=1)
    trace = row("So 2+2 = 4 in all.")
    sampler = CallSampler(tiny_model, tiny_tokenizer, prompt, config)

    def ids(text: str) -> list[int]:
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    syntax = syntax_for(name)
    before = ids(examples_head(1, prompt, syntax)) + ids(prompt_turn(trace["question"], prompt) + "<think>")
    opener = ids(syntax.opener)
    for place in sampler.places(trace):
        context = before + ids(trace["reasoning"][: place.at])
        with torch.no_grad():
            logits = tiny_model(input_ids=torch.tensor([context + opener])).logits[0, len(context) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(opener)[:, None]).sum().exp()
        assert place.probability == pytest.approx(float(expected), rel=1e-3)


def test_the_model_is_asked_for_calls_where_it_wants_to_call(taught: tuple[Any, Any]) -> None:
    sampler = CallSampler(*taught, PromptConfig(), NO_HEAD)
    trace = row("It is 1+1 = 2.")
    (best, *_) = sampler.places(trace)
    assert trace["reasoning"][: best.at] == "It is 1+1 =" and best.probability > 0.5
    (found, *_) = sampler.sample(trace)
    assert found[0] == best.at and found[1][0] == ToolCall("Calculator", {"expression": "1+1"})
    assert sampler.sample(trace) == sampler.sample(trace), "seeded by row, place and sample"


def test_calls_to_other_tools_are_left_out(taught: tuple[Any, Any]) -> None:
    only_search = NO_HEAD.model_copy(update={"tools": ("Search",)})
    assert CallSampler(*taught, PromptConfig(), only_search).sample(row("It is 1+1 = 2.")) == []


def test_a_model_that_never_calls_finds_no_place(tiny_model: Any, tiny_tokenizer: Any) -> None:
    sampler = CallSampler(tiny_model, tiny_tokenizer, PromptConfig(), NO_HEAD)
    assert sampler.places(row("It is 1+1 = 2.")) == [] == sampler.sample(row(""))


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_calls_at_any_sampled_places_leave_the_text_as_it_was(tiny_model: Any, tiny_tokenizer: Any, text: str) -> None:
    config = SamplingConfig(tau_s=0.0, k=50, n_examples=0)
    places = CallSampler(tiny_model, tiny_tokenizer, PromptConfig(), config).places(row(text))
    assert len({place.at for place in places}) == len(places)
    call, result = ToolCall("Calculator", {"expression": "1+1"}), ToolResult("2")
    segments = splice(text, [Insertion(place.at, call, result) for place in places])
    assert plain_text(segments) == text
    assert sum(segment.kind == "call" for segment in segments) == len(places)
