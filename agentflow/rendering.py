"""From a row to the text a model sees, as spans with roles; and from a model's text back to a `Completion`.

Spans of a training row (chatml, compact):

    prompt  <|im_start|>system\n...<|im_end|>\n<|im_start|>user\nMia has ...<|im_end|>\n<|im_start|>assistant\n
    think   <think>In May she sold 48/2 =
    call     [Calculator(48/2) ->
    result   24]
    think    24 clips. ...</think>
    answer  <answer>72</answer>

The layout `<think>..</think><answer>..</answer>` is paper B's (tags [P], layout [O]); calls inside the reasoning are
paper A's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentflow.config import Frozen
from agentflow.records import Completion, Segment, Span
from agentflow.syntax import Syntax, SyntaxName


@dataclass(frozen=True)
class Template:
    """A prompt template in two parts, so that what all questions share is computed once (see `prompt_head`)."""

    head: str
    # Stands once, before the first question.
    turn: str
    # One question, up to the place where the model begins to write.
    end: str
    # Closes a finished turn, where worked examples stand before the question.


TEMPLATES = {
    "chatml": Template(
        head="<|im_start|>system\n{system}<|im_end|>\n",
        turn="<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>\n",
    ),
    # Paper A, Fig. 3 [P]: the preamble and the field names.
    "paper_a": Template(
        head="Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request. Keep in count if input is provided.\n\nInstruction: {system}\n\n",
        turn="Input: {question}\nReason: ",
        end="\n\n",
    ),
}

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_INSIDE = r"(?:(?!</?(?:think|answer)>).)*"
# No tag of the layout stands inside a block: an answer in the reasoning would be a second answer.
_LAYOUT = re.compile(r"</?(?:think|answer)>")
_WHOLE = re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL)


class PromptConfig(Frozen):
    """How a question is put to the model and how calls look."""

    template: Literal["chatml", "paper_a"] = "chatml"
    system: str = (
        "Think step by step with [Calculator(expression) -> result] and [Search(query) -> result], then answer."
    )
    syntax: SyntaxName = "compact"


def prompt_head(config: PromptConfig, *, system: str | None = None) -> str:
    """What stands before the first question; the same for all questions. `system` replaces the configured text."""
    return TEMPLATES[config.template].head.replace("{system}", config.system if system is None else system)


def prompt_turn(question: str, config: PromptConfig) -> str:
    """One question, up to the place where the model begins to write."""
    # str.replace, not format: a question may hold braces, and it is data.
    return TEMPLATES[config.template].turn.replace("{question}", question)


def prompt_text(question: str, config: PromptConfig) -> str:
    """The whole prompt of a question."""
    return prompt_head(config) + prompt_turn(question, config)


def completion_spans(segments: Sequence[Segment], answer: str, syntax: Syntax) -> list[Span]:
    """What the model writes (and what tools inject) for one row, in order; texts concatenate to the completion."""
    spans: list[Span] = []
    text = "<think>"
    for segment in segments:
        if segment.kind == "text":
            text += segment.text
            continue
        assert segment.call is not None and segment.result is not None
        spans += [Span("think", text)] if text else []
        spans += [
            Span(segment.kind, syntax.call_text(segment.call)),
            Span("result", syntax.result_text(segment.result.text)),
        ]
        text = ""
    return [*spans, Span("think", text + "</think>"), Span("answer", f"<answer>{answer}</answer>")]


def parse_completion(text: str, syntax: Syntax) -> Completion:
    """Read a model's text. Total: any string gives a Completion; nothing is executed or evaluated."""
    thinks, answers = _THINK.findall(text), _ANSWER.findall(text)
    think = thinks[0] if len(thinks) == 1 else None
    return Completion(
        think=think,
        answer=answers[0].strip() if len(answers) == 1 else None,
        calls=tuple(found.call for found in syntax.find_calls(think if think is not None else text)),
        well_formed=_WHOLE.fullmatch(text) is not None,
    )


def parse_turn(text: str, syntax: Syntax) -> Completion:
    """Read a turn of paper B: one think block, then calls or one answer block [P]. Total, as `parse_completion`.

    `calls` are those outside the think block (of the whole text where there is not exactly one); their results do not
    belong to the turn, so what a model invented as one makes it ill-formed. Several calls in a row are one action.
    """
    whole = parse_completion(text, syntax)
    block = _THINK.search(text) if whole.think is not None else None
    before, after = (text[: block.start()], text[block.end() :]) if block else ("", text)
    found = syntax.find_calls(after)
    outside = before + syntax.strip_calls(after, results=False)
    calls_alone = block is not None and bool(found) and not outside.strip() and not _LAYOUT.search(block[1])
    calls = [*(syntax.find_calls(before) if block else ()), *found]
    return Completion(
        think=whole.think,
        answer=whole.answer,
        calls=tuple(one.call for one in calls),
        well_formed=calls_alone or (whole.well_formed and not calls),
        unreadable=len(_ANSWER.findall(text)) > 1 or any(map(syntax.holds_unreadable_call, (before, after))),
    )
