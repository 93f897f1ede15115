"""Samples that a person writes or edits: JSON lines, with calls in the reasoning as the recipe's syntax has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agentflow.errors import InputError
from agentflow.insertion.splice import plain_text
from agentflow.records import Segment
from agentflow.syntax import FoundCall, Syntax, holds_markup

MOST_SAMPLES = 99
# A cold start has fewer than 100 (paper B [P]).
Line = TypeVar("Line", bound=BaseModel)


def lines_of(file: Path, model: type[Line], what: str) -> list[tuple[int, Line]]:
    """Every line that is not empty, with its number. Raises InputError naming `what`, file, line and field."""
    try:
        texts = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {what} {str(file)!r}: {error}") from error
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            lines.append((number, model.model_validate_json(text)))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "the line"
            raise InputError(f"{what} {str(file)!r}, line {number}: {place}: {problem['msg']}") from error
    return lines


def check_number(kept: int, what: str, file: Path, how: str) -> None:
    """Raise InputError unless the file gives a cold start at least one sample and fewer than 100."""
    if not kept:
        raise InputError(f"{what} {str(file)!r} {how} no row; it must at least one")
    if kept > MOST_SAMPLES:
        raise InputError(f"{what} {str(file)!r} {how} {kept} rows; a cold start has fewer than 100 (paper B)")


def segments_of(reasoning: str, syntax: Syntax, call: Callable[[FoundCall, str], Segment], where: str) -> list[Segment]:
    """`reasoning` as segments; `call` makes one of a found call and the text of its result, or raises.

    Raises InputError for reasoning that says nothing or holds a layout tag or chat token.
    """
    segments: list[Segment] = []
    place = 0
    for found in syntax.find_calls(reasoning):
        segment = call(found, reasoning[found.call_end : found.end])
        if reasoning[place : found.start]:
            segments.append(Segment("text", text=reasoning[place : found.start]))
        segments.append(segment)
        place = found.end
    if reasoning[place:]:
        segments.append(Segment("text", text=reasoning[place:]))
    text = plain_text(segments)
    if not text.strip() or holds_markup(text):
        raise InputError(f"{where}: the reasoning is empty or holds a layout tag or chat token")
    return segments
