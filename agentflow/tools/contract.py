"""The one contract every tool keeps, and the box a model's calls are run through.

In: a `records.ToolCall` as a model wrote it. Out: a `records.ToolResult`, one safe line of text.
The model's own faults (unknown tool, refused arguments) come back as text it can read; faults of our machinery are
raised, so that they can never become a reward, a score or a training row. It does not parse or render calls.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jsonschema
import referencing
import referencing.exceptions

from agentflow.errors import AgentflowError, CallTimeout, ConfigError, ServiceFailure, ToolArgumentError, ToolFailure
from agentflow.records import ToolCall, ToolResult
from agentflow.tools.leaks import Subject
from agentflow.tools.neutralise import neutralise
from agentflow.waiting import within

_REASON_CHARS = 160
# A refusal is shown to the model; longer ones would only repeat its own arguments.
_RAW_FACTOR = 8
# Raw results are cut to this multiple of the cap before the character-wise clean-up (a 1 MB result stays cheap).


class Tool(ABC):
    """Something a model may call. Subclasses set the four attributes and implement `call`."""

    name: ClassVar[str]
    # As the model writes it: "Calculator".
    primary: ClassVar[str]
    # The one argument the compact syntax carries: `[Calculator(48/2) -> 24]` means {"expression": "48/2"}.
    timeout_s: float = 10.0
    # Deadline of one call, seconds; waiting for its turn does not count (`waiting.unhurried`).
    max_result_chars: int = 500
    # Longest result shown to the model, characters.

    @property
    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The OpenAI function object: {"type": "function", "function": {"name", "description", "parameters"}}."""

    @abstractmethod
    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        """Run with arguments that fit the schema; the result's text may be raw, the box cleans and cuts it.

        Raises ToolArgumentError (shown to the model), ToolFailure or an error that stops the run.
        """

    async def call_about(self, arguments: dict[str, Any], subject: Subject | None) -> ToolResult:
        """`call` for a tool that must know which question it helps to answer; others need not implement it."""
        return await self.call(arguments)


def function_schema(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI function object whose `properties` are all required and which takes nothing else."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


class ToolBox:
    """The tools one model may use, by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        """Raises ConfigError if two tools share a name, or a schema is invalid or lacks the primary argument."""
        self._tools: dict[str, Tool] = {}
        self._validators: dict[str, Any] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ConfigError(f"two tools are named {tool.name!r}; give every tool of a box its own name")
            parameters = tool.schema["function"]["parameters"]
            if tool.primary not in parameters.get("properties", {}):
                raise ConfigError(
                    f"tool {tool.name!r}: primary argument {tool.primary!r} is not in its schema; "
                    f"allowed: {sorted(parameters.get('properties', {}))}"
                )
            try:
                jsonschema.Draft202012Validator.check_schema(parameters)
            except jsonschema.SchemaError as error:
                raise ConfigError(f"tool {tool.name!r}: its parameters are no JSON Schema: {error.message}") from error
            self._tools[tool.name] = tool
            # An explicit empty registry: a `$ref` to elsewhere fails instead of being fetched.
            self._validators[tool.name] = jsonschema.Draft202012Validator(parameters, registry=referencing.Registry())

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order given."""
        return tuple(self._tools)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """OpenAI function objects in the order given."""
        return [tool.schema for tool in self._tools.values()]

    @property
    def primary(self) -> Mapping[str, str]:
        """Tool name to the argument its compact syntax carries."""
        return {name: tool.primary for name, tool in self._tools.items()}

    async def run(self, call: ToolCall, subject: Subject | None = None) -> ToolResult:
        """Run `call`; its result is neutralised and at most the tool's `max_result_chars` long.

        `subject` is the question the call helps to answer: a search then notes results that give its answer away.

        Unknown tools and refused arguments are results whose `error` is the reason and whose text is "error: <reason>".
        Raises ToolFailure(kind) for timeouts and other faults of the tool itself. Failures that stop the run
        (no budget, wrong key) and errors of the ledger pass through unchanged.
        """
        tool = self._tools.get(call.tool)
        if tool is None:
            return refusal(f"unknown tool {call.tool!r}; available: {', '.join(self._tools) or 'none'}")
        reason = argument_fault(self._validators[call.tool], call.arguments)
        if reason is not None:
            return refusal(reason)
        try:
            async with within(tool.timeout_s):
                result = await tool.call_about(call.arguments, subject)
        except ToolArgumentError as error:
            return refusal(str(error))
        except TimeoutError as error:
            raise ToolFailure(
                f"tool {tool.name!r} gave no result within {tool.timeout_s:g} s", kind=CallTimeout.kind
            ) from error
        except ServiceFailure as failure:
            if failure.stops_run:
                raise
            message = f"tool {tool.name!r}: {failure}"
            raise ToolFailure(message, kind=failure.kind, row_fault=failure.row_fault) from failure
        except AgentflowError:
            raise
        except Exception as error:
            raise ToolFailure(f"tool {tool.name!r} broke: {type(error).__name__}: {error}", kind="crashed") from error
        return dataclasses.replace(result, text=clip(result.text, tool.max_result_chars))


def argument_fault(validator: Any, arguments: Any) -> str | None:
    """Why `arguments` do not fit the schema, in one short line; None if they do.

    Total for any JSON value; raises ToolFailure if the schema itself refers to something that is not in it.
    """
    try:
        error = next(validator.iter_errors(arguments), None)
    except RecursionError:
        return "arguments are nested too deeply"
    except referencing.exceptions.Unresolvable as unresolvable:
        raise ToolFailure(f"the tool's schema cannot be resolved: {unresolvable}", kind="bad_schema") from unresolvable
    if error is None:
        return None
    where = "".join(f" {part!r}" for part in error.absolute_path)
    if error.validator == "type":
        return f"argument{where} must be of type {error.validator_value}" if where else "arguments must be an object"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"missing argument {missing[0]!r}"
    if error.validator == "additionalProperties":
        extra = [name for name in error.instance if name not in error.schema.get("properties", {})]
        return f"unknown argument {str(extra[0])[:40]!r}; allowed: {', '.join(error.schema.get('properties', {}))}"
    if error.validator in ("maxLength", "minLength"):
        bound = "at most" if error.validator == "maxLength" else "at least"
        return f"argument{where} must have {bound} {error.validator_value} characters"
    return f"argument{where} breaks the rule {error.validator}: {str(error.validator_value)[:60]}"


def clip(text: str, limit: int) -> str:
    """`text` neutralised and cut to `limit` characters, the last of them an ellipsis where something was cut."""
    raw = text[: _RAW_FACTOR * limit]
    clean = neutralise(raw)
    if len(clean) <= limit and len(raw) == len(text):
        return clean
    return clean[: max(limit - 1, 0)].rstrip() + "…"


def refusal(reason: str) -> ToolResult:
    """What a model sees of a call that was refused."""
    reason = clip(reason, _REASON_CHARS)
    return ToolResult(text=f"error: {reason}", error=reason)
