"""The surface form of calls inside reasoning: rendered and recognised here and nowhere else.

    compact   ... 48/2 = [Calculator(48/2) -> 24] 24 clips ...
    json      ... 48/2 = <tool_call>{"name": "Calculator", "arguments": {"expression": "48/2"}}</tool_call>
              <tool_response>24</tool_response> 24 clips ...   (on one line)

Everything up to and including the `opener` of the result ("->" or "</tool_call>") is written by the model; what follows
up to the `closer` is injected. Generation therefore stops when `pending_call` finds a call at the end of the text.
`compact` carries exactly one argument (the tool's primary one) and cannot hold brackets or line breaks: `representable`
says so, and an insertion that is not representable is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentflow.records import ToolCall, canonical_json

SyntaxName = Literal["compact", "json"]

_FOREIGN = re.compile(r"</?(?:think|answer|tool_call|tool_response)>|<\|")
# Tags of the layout and chat tokens: an argument that holds one would end the block the call stands in.


@dataclass(frozen=True)
class FoundCall:
    """A call in a text: where it starts, where its own characters end, and where its result (if any) ends."""

    call: ToolCall
    start: int
    call_end: int
    end: int
    # == call_end if no result follows.


def holds_markup(text: str) -> bool:
    """Whether `text` holds a layout tag (<think>, </answer>, <tool_call>, ...) or the start of a chat token (<|)."""
    return _FOREIGN.search(text) is not None


class Syntax:
    """One surface form. `primary` maps a tool's name to the argument that the compact form carries."""

    def __init__(self, name: SyntaxName, primary: Mapping[str, str]) -> None:
        if name not in ("compact", "json"):
            raise ValueError(f"syntax {name!r}: allowed are 'compact' and 'json'")
        self.name = name
        self.primary = dict(primary)
        if name == "compact":
            tools = "|".join(re.escape(tool) for tool in sorted(self.primary)) or r"(?!)"
            self._call = re.compile(rf" ?\[({tools})\(([^\[\]\n]*?)\) ->")
            self._result = re.compile(r" ?([^\]\n]*)\]")
            self._begun = re.compile(rf"\[(?:{tools})\(")
        else:
            self._call = re.compile(r" ?<tool_call>(.*?)</tool_call>", re.DOTALL)
            self._result = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
            self._begun = re.compile(r"</?tool_call>")

    # ------------------------------------------------------------------ rendering
    @property
    def opener(self) -> str:
        """What every call begins with, whichever tool it is for."""
        return " [" if self.name == "compact" else " <tool_call>"

    @property
    def call_end(self) -> str:
        """What every call ends with: generation stops behind it."""
        return "->" if self.name == "compact" else "</tool_call>"

    def representable(self, call: ToolCall) -> bool:
        """Whether rendering `call` and finding it again gives `call` back, and leaves the text around it whole."""
        try:
            found = self.pending_call(self.call_text(call))
            foreign = _FOREIGN.search(canonical_json([call.tool, call.arguments]))
        except (KeyError, ValueError):
            return False
        return found is not None and found.key == call.key and foreign is None

    def call_text(self, call: ToolCall) -> str:
        """What the model writes to make `call`, with one leading space. Raises ValueError if compact cannot hold it."""
        if self.name == "json":
            body = json.dumps({"name": call.tool, "arguments": call.arguments}, ensure_ascii=False)
            return f" <tool_call>{body}</tool_call>"
        argument = self.primary[call.tool]
        if set(call.arguments) != {argument} or not isinstance(call.arguments[argument], str):
            raise ValueError(f"compact syntax carries only the text argument {argument!r} of {call.tool}")
        return f" [{call.tool}({call.arguments[argument]}) ->"

    def result_text(self, result: str) -> str:
        """What is injected after a call; `result` must be neutralised already (tools.contract)."""
        if self.name == "json":
            return f"<tool_response>{result}</tool_response>"
        return f" {result}]"

    # ------------------------------------------------------------------ recognising
    def read_result(self, injected: str) -> str:
        """The result that stands in `injected`, as `result_text` rendered it; "" if none does."""
        found = self._result.fullmatch(injected)
        return found[1] if found else ""

    def pending_call(self, text: str) -> ToolCall | None:
        """The call that `text` ends with, waiting for its result; None if there is none or it is malformed."""
        tail = text.rstrip()
        if not tail.endswith(self.call_end):
            return None
        found = None
        for match in self._call.finditer(tail):
            found = match
        if found is None or found.end() != len(tail):
            return None
        return self._to_call(found)

    def find_calls(self, text: str) -> list[FoundCall]:
        """All well-formed calls of `text` in order, with the extent of their results."""
        calls, position = [], 0
        while match := self._call.search(text, position):
            call = self._to_call(match)
            result = self._result.match(text, match.end())
            end = result.end() if result else match.end()
            if call is not None:
                calls.append(FoundCall(call, match.start(), match.end(), end))
            position = end
        return calls

    def strip_calls(self, text: str, *, results: bool = True) -> str:
        """`text` without its calls and (unless `results` is false) their results: what is left is reasoning in the
        model's own words.
        """
        kept, position = [], 0
        for found in self.find_calls(text):
            kept.append(text[position : found.start])
            position = found.end if results else found.call_end
        return "".join([*kept, text[position:]])

    def holds_unreadable_call(self, text: str) -> bool:
        """Whether a call was begun in `text` that `find_calls` cannot read: not closed, no JSON, no name."""
        return self._begun.search(self.strip_calls(text, results=False)) is not None

    def _to_call(self, match: re.Match[str]) -> ToolCall | None:
        if self.name == "compact":
            tool, argument = match.group(1), match.group(2)
            return ToolCall(tool, {self.primary[tool]: argument})
        try:
            body = json.loads(match.group(1))
            canonical_json(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(body, dict) or not isinstance(body.get("name"), str):
            return None
        arguments = body.get("arguments")
        return ToolCall(body["name"], arguments) if isinstance(arguments, dict) else None
