"""A rollout as a trace of MTR: (think call observation) times n, then think, then answer.

In: the text, its call syntax, the results that tools really gave. Out: a `Trace`, or None where the text does not
follow the grammar. Two layouts hold such a trace:

    blocks   <think>..</think><tool_call>{..}</tool_call><observation>..</observation> ... <think>..</think><answer>
             (MTR, arXiv 2510.06825; <tool_response> is read as <observation> too)
    inline   <think>.. [Calculator(48/2) -> 24] ..</think><answer>..</answer>: calls inside the reasoning (paper A); the
             thoughts are the pieces of text around the calls

Every thought must hold a word, every call must be readable and followed by its observation; none stands in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentflow.records import ToolCall
from agentflow.rendering import parse_completion
from agentflow.syntax import Syntax, holds_markup

_BLOCK = re.compile(r"\s*<(think|tool_call|observation|tool_response|answer)>")


@dataclass(frozen=True)
class Trace:
    """A rollout that follows the grammar; `calls` and `observations` have n entries, `thoughts` n + 1."""

    thoughts: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    observations: tuple[str, ...]
    answer: str


def read_trace(text: str, syntax: Syntax, observations: Sequence[str] | None = None) -> Trace | None:
    """The trace that `text` is, in either layout; None if it is none. Total.

    With `observations` given, their number must be that of the calls (an observation that the model wrote itself is
    none), and they stand in the trace instead of the text's own.
    """
    trace = _inline(text, syntax) or _blocks(text, syntax)
    if trace is not None and syntax.find_calls(trace.answer):  # what a tool said is no answer
        return None
    if trace is None or observations is None:
        return trace
    if len(observations) != len(trace.calls):
        return None
    return Trace(trace.thoughts, trace.calls, tuple(observations), trace.answer)


def _inline(text: str, syntax: Syntax) -> Trace | None:
    completion = parse_completion(text, syntax)
    if not completion.well_formed or completion.think is None or not completion.answer:
        return None
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    observations: list[str] = []
    position = 0
    for found in syntax.find_calls(completion.think):
        thoughts.append(completion.think[position : found.start])
        calls.append(found.call)
        observations.append(completion.think[found.call_end : found.end])
        position = found.end
    thoughts.append(completion.think[position:])
    return _trace(thoughts, calls, observations, completion.answer)


def _blocks(text: str, syntax: Syntax) -> Trace | None:
    read = _read_blocks(text)
    if read is None:
        return None
    kinds = [kind for kind, _ in read]
    if kinds != ["think", "tool_call", "observation"] * ((len(kinds) - 2) // 3) + ["think", "answer"]:
        return None
    texts = {name: [inside for kind, inside in read if kind == name] for name in dict.fromkeys(kinds)}
    calls = []
    for inside in texts.get("tool_call", ()):
        found = syntax.find_calls(f"<tool_call>{inside}</tool_call>") if syntax.name == "json" else []
        if len(found) != 1:
            return None
        calls.append(found[0].call)
    return _trace(texts["think"], calls, texts.get("observation", []), texts["answer"][0].strip())


def _read_blocks(text: str) -> list[tuple[str, str]] | None:
    """(tag, inside) of the blocks that `text` consists of; None if anything but white space stands outside."""
    read: list[tuple[str, str]] = []
    position = 0
    while match := _BLOCK.match(text, position):
        tag = match[1]
        end = text.find(f"</{tag}>", match.end())
        if end < 0:
            return None
        read.append(("observation" if tag == "tool_response" else tag, text[match.end() : end]))
        position = end + len(tag) + 3
    return read if read and not text[position:].strip() else None


def _trace(
    thoughts: Sequence[str], calls: Sequence[ToolCall], observations: Sequence[str], answer: str
) -> Trace | None:
    whole = bool(answer) and all(thought.strip() and not holds_markup(thought) for thought in thoughts)
    if not whole or not all(observation.strip() for observation in observations):
        return None
    return Trace(tuple(thoughts), tuple(calls), tuple(observations), answer)
