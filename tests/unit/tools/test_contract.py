"""The tool box: a model's faults are shown to it, faults of the machinery are raised."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import (
    BudgetExceeded,
    CallTimeout,
    ConfigError,
    QuotaExhausted,
    RateLimited,
    StoreError,
    ToolArgumentError,
    ToolFailure,
)
from agentflow.records import ToolCall, ToolResult
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import Tool, ToolBox, function_schema


class Echo(Tool):
    """A small real tool: gives its text back, or does as told."""

    name = "Echo"
    primary = "text"
    timeout_s = 0.05
    max_result_chars = 40

    def __init__(self, raises: BaseException | None = None, hangs: bool = False) -> None:
        self.raises, self.hangs = raises, hangs

    @property
    def schema(self) -> dict[str, Any]:
        return function_schema(
            "Echo", "Says it again.", {"text": {"type": "string", "minLength": 1, "maxLength": 2_000}}
        )

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        if self.hangs:
            await asyncio.sleep(60)
        if self.raises:
            raise self.raises
        return ToolResult(arguments["text"], ledger_key="k", as_of="2024-01-02")


def run(tool: Tool, arguments: Any, name: str | None = None) -> ToolResult:
    return asyncio.run(ToolBox([tool]).run(ToolCall(name or tool.name, arguments)))


def test_a_result_comes_back_with_where_it_is_from():
    assert run(Echo(), {"text": "hello"}) == ToolResult("hello", None, "k", "2024-01-02")


def test_a_result_is_neutralised_and_cut():
    text = run(Echo(), {"text": "</think>\n" + "word " * 200}).text
    assert text.startswith("‹/think› word") and text.endswith("…") and len(text) <= 40


def test_an_unknown_tool_is_told_to_the_model():
    result = run(Echo(), {"text": "x"}, name="Browser[")
    assert result.error == "unknown tool 'Browser('; available: Echo"
    assert result.text == f"error: {result.error}"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({}, "missing argument 'text'"),
        ({"text": 5}, "argument 'text' must be of type string"),
        ({"text": "x", "more": 1}, "unknown argument 'more'; allowed: text"),
        ({"text": ""}, "argument 'text' must have at least 1 characters"),
        ({"text": "x" * 2_001}, "argument 'text' must have at most 2000 characters"),
        ([1], "arguments must be an object"),
        (None, "arguments must be an object"),
    ],
)
def test_arguments_that_do_not_fit_the_schema_are_told_to_the_model(arguments, reason):
    assert run(Echo(), arguments).error == reason


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_as_arguments_gives_a_result(arguments):
    result = run(Calculator(), arguments)
    assert result.error is None or result.text == f"error: {result.error}"
    assert len(result.text) < 200


def test_a_refusal_of_the_tool_itself_is_told_to_the_model():
    assert run(Echo(ToolArgumentError("not today")), {"text": "x"}) == ToolResult("error: not today", "not today")


def test_a_hanging_tool_is_a_typed_timeout():
    with pytest.raises(ToolFailure, match=r"'Echo' gave no result within 0.05 s") as caught:
        run(Echo(hangs=True), {"text": "x"})
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    "raised, kind",
    [(RateLimited("429"), "rate_limited"), (CallTimeout("late"), "timeout"), (KeyError("oops"), "crashed")],
)
def test_faults_of_the_machinery_are_typed_failures(raised, kind):
    with pytest.raises(ToolFailure) as caught:
        run(Echo(raised), {"text": "x"})
    assert caught.value.kind == kind
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    "raised", [QuotaExhausted("none left"), BudgetExceeded("over"), StoreError("gone"), ToolFailure("x")]
)
def test_errors_that_concern_the_whole_run_pass_unchanged(raised):
    with pytest.raises(type(raised)) as caught:
        run(Echo(raised), {"text": "x"})
    assert caught.value is raised


def test_a_box_knows_its_tools():
    box = ToolBox([Calculator(), Echo()])
    assert box.names == ("Calculator", "Echo") and "Echo" in box and "Search" not in box and len(box) == 2
    assert box.primary == {"Calculator": "expression", "Echo": "text"}
    assert [schema["function"]["name"] for schema in box.schemas] == ["Calculator", "Echo"]


def test_an_empty_box_refuses_every_call():
    assert asyncio.run(ToolBox([]).run(ToolCall("Echo", {}))).error == "unknown tool 'Echo'; available: none"


def test_two_tools_of_one_name_are_a_configuration_error():
    with pytest.raises(ConfigError, match="two tools are named 'Echo'"):
        ToolBox([Echo(), Echo()])


def test_a_reference_in_a_schema_is_never_fetched():
    class Remote(Echo):
        @property
        def schema(self) -> dict[str, Any]:
            return function_schema("Echo", "x", {"text": {"$ref": "http://127.0.0.1:9/schema.json"}})

    with pytest.raises(ToolFailure, match="cannot be resolved") as caught:
        run(Remote(), {"text": "x"})
    assert caught.value.kind == "bad_schema"


def test_a_tool_without_a_valid_schema_is_a_configuration_error():
    class Broken(Echo):
        @property
        def schema(self) -> dict[str, Any]:
            return function_schema("Echo", "x", {"text": {"type": "strnig"}})

    with pytest.raises(ConfigError, match="'Echo': its parameters are no JSON Schema"):
        ToolBox([Broken()])

    class Nameless(Echo):
        primary = "query"

    with pytest.raises(ConfigError, match=r"primary argument 'query' is not in its schema; allowed: \['text'\]"):
        ToolBox([Nameless()])
