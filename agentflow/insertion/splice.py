"""Puts calls into reasoning and takes them out again: text and offsets in, `records.Segment` list out.

The one law: the text segments, concatenated, are the reasoning, byte for byte. How a call looks when it is rendered
(brackets, spaces around it) is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentflow.records import Segment, ToolCall, ToolResult


@dataclass(frozen=True)
class Insertion:
    """A call that was run, and where it belongs."""

    at: int
    # Offset in the reasoning, in characters: the call stands before reasoning[at].
    call: ToolCall
    result: ToolResult


def splice(reasoning: str, insertions: Sequence[Insertion]) -> list[Segment]:
    """`reasoning` cut at the insertions, with a call segment at each cut; no empty text segments.

    Order of `insertions` does not matter; several at one offset keep their given order. Raises ValueError for an offset
    outside [0, len(reasoning)].
    """
    segments: list[Segment] = []
    done = 0
    for insertion in sorted(insertions, key=lambda item: item.at):
        if not 0 <= insertion.at <= len(reasoning):
            raise ValueError(f"insertion at {insertion.at} is outside the reasoning; allowed: 0 to {len(reasoning)}")
        if insertion.at > done:
            segments.append(Segment(kind="text", text=reasoning[done : insertion.at]))
        segments.append(Segment(kind="call", call=insertion.call, result=insertion.result))
        done = insertion.at
    if done < len(reasoning):
        segments.append(Segment(kind="text", text=reasoning[done:]))
    return segments


def plain_text(segments: Iterable[Segment]) -> str:
    """The reasoning itself: the text segments, concatenated."""
    return "".join(segment.text for segment in segments if segment.kind == "text")


def without_calls(segments: Iterable[Segment]) -> list[Segment]:
    """The same reasoning as one text segment (none if it is empty)."""
    return splice(plain_text(segments), [])
