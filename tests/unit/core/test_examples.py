"""The worked examples are right: their calls give the results they show, and they read as finished turns."""

import asyncio

import pytest

from agentflow.examples import EXAMPLES, examples_head
from agentflow.records import ToolCall
from agentflow.rendering import PromptConfig, parse_completion, prompt_head, prompt_turn
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.toolset import syntax_for


def test_every_calculation_of_the_examples_is_right():
    toolbox = ToolBox([Calculator()])
    shown = [
        (segment.call, segment.result.text)
        for example in EXAMPLES
        for segment in example.segments
        if segment.call and segment.result and segment.call.tool == "Calculator"
    ]
    assert len(shown) == 2
    for call, result in shown:
        assert asyncio.run(toolbox.run(call)).text == result


def test_both_tools_are_shown():
    assert {segment.call.tool for example in EXAMPLES for segment in example.segments if segment.call} == {
        "Calculator",
        "Search",
    }


@pytest.mark.parametrize("name", ["compact", "json"])
@pytest.mark.parametrize("template", ["chatml", "paper_a"])
def test_the_text_is_finished_turns_of_the_template(name, template):
    prompt, syntax = PromptConfig(template=template, syntax=name), syntax_for(name)
    text = examples_head(2, prompt, syntax)
    assert text.startswith(prompt_head(prompt)) and text.count(prompt.system) == 1
    for example in EXAMPLES:
        start = prompt_turn(example.question, prompt)
        assert text.count(start) == 1
        completion = parse_completion(text.split(start)[1].split("</answer>")[0] + "</answer>", syntax)
        assert completion.well_formed and completion.answer == example.answer
        assert list(completion.calls) == [segment.call for segment in example.segments if segment.call]
    assert text.endswith("<|im_end|>\n" if template == "chatml" else "\n\n")


def test_fewer_examples_are_the_first_ones_and_none_leaves_the_bare_head():
    prompt, syntax = PromptConfig(), syntax_for("compact")
    assert examples_head(0, prompt, syntax) == prompt_head(prompt)
    assert examples_head(2, prompt, syntax).startswith(examples_head(1, prompt, syntax))
    assert EXAMPLES[1].question not in examples_head(1, prompt, syntax)


def test_the_syntax_decides_how_the_calls_look():
    compact = examples_head(1, PromptConfig(), syntax_for("compact"))
    as_json = examples_head(1, PromptConfig(syntax="json"), syntax_for("json"))
    assert "[Calculator(6*14) -> 84]" in compact and "<tool_call>" not in compact
    assert syntax_for("json").find_calls(as_json)[0].call == ToolCall("Calculator", {"expression": "6*14"})


def test_another_system_text_replaces_the_configured_one():
    prompt = PromptConfig(system="OLD")
    head = examples_head(2, prompt, syntax_for("compact"), system="SYSTEM")
    assert head.count("SYSTEM") == 1 and "OLD" not in head
