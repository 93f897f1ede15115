"""Worked examples that introduce the call syntax to a model that has never seen it.

Ours; the need is measured (docs/loss_filter.md). Used in the prompt of the loss scorer (both arms alike) and of the
untrained base model. Written by hand, not from any template or data set.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.records import Segment, ToolCall, ToolResult
from agentflow.rendering import TEMPLATES, PromptConfig, completion_spans, prompt_head, prompt_turn
from agentflow.syntax import Syntax


@dataclass(frozen=True)
class Example:
    """A question with tool-using reasoning and its answer."""

    question: str
    segments: tuple[Segment, ...]
    answer: str


def _calculator(expression: str, result: str) -> Segment:
    return Segment("call", call=ToolCall("Calculator", {"expression": expression}), result=ToolResult(result))


def _search(query: str, result: str) -> Segment:
    return Segment("call", call=ToolCall("Search", {"query": query}), result=ToolResult(result))


EXAMPLES = (
    Example(
        "A shelf holds 6 rows of 14 jars. 9 jars break. How many jars are left?",
        (
            Segment("text", "The shelf first holds 6*14 ="),
            _calculator("6*14", "84"),
            Segment("text", " 84 jars. After 9 of them break, 84-9 ="),
            _calculator("84-9", "75"),
            Segment("text", " 75 jars are left on the shelf."),
        ),
        "75",
    ),
    Example(
        "In which country was the composer of the opera Falka's Lamp born?",
        (
            Segment("text", "First I need the composer of Falka's Lamp."),
            _search("Who composed Falka's Lamp?", "Falka's Lamp was composed by Oro Dell."),
            Segment("text", " Falka's Lamp was composed by Oro Dell. Next I need where Oro Dell was born."),
            _search("Where was Oro Dell born?", "Oro Dell was born in Karst."),
            Segment("text", " Oro Dell was born in Karst."),
        ),
        "Karst",
    ),
)


def examples_head(n: int, prompt: PromptConfig, syntax: Syntax, *, system: str | None = None) -> str:
    """`prompt_head` with the first `n` examples as finished turns behind it."""
    text = prompt_head(prompt, system=system)
    for example in EXAMPLES[:n]:
        completion = "".join(span.text for span in completion_spans(example.segments, example.answer, syntax))
        text += prompt_turn(example.question, prompt) + completion + TEMPLATES[prompt.template].end
    return text
