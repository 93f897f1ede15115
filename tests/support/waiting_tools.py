"""Tools that wait for each other or fail, and a tool box of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

from agentflow.errors import AuthFailed, ToolFailure
from agentflow.records import ToolResult
from agentflow.syntax import Syntax
from agentflow.tools.contract import Tool, ToolBox, function_schema

WAIT_S = 60.0


class Meeting(Tool):
    """Returns only when `parties` calls stand in it at once; a call left alone fails by its deadline."""

    name, primary, timeout_s = "Meeting", "who", WAIT_S

    def __init__(self, parties: int) -> None:
        self._parties, self._present = parties, 0
        self._all_here = asyncio.Event()
        self.together = 0

    @property
    def schema(self) -> dict[str, Any]:
        return function_schema(self.name, "Waits for the others.", {"who": {"type": "string"}})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        self._present += 1
        self.together = max(self.together, self._present)
        if self._present == self._parties:
            self._all_here.set()
        await self._all_here.wait()
        self._present -= 1
        return ToolResult(f"met {arguments['who']}")


class Gate(Tool):
    """`Gate(wait)` returns only after somebody called `Gate(open)`."""

    name, primary, timeout_s = "Gate", "what", WAIT_S

    def __init__(self) -> None:
        self._open = asyncio.Event()

    @property
    def schema(self) -> dict[str, Any]:
        return function_schema(self.name, "Opens, or waits.", {"what": {"type": "string"}})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        if arguments["what"] == "open":
            self._open.set()
        await self._open.wait()
        return ToolResult("through")


class Broken(Tool):
    """`Broken(network)` fails as infrastructure does, `Broken(key)` as what stops a run."""

    name, primary = "Broken", "how"

    @property
    def schema(self) -> dict[str, Any]:
        return function_schema(self.name, "Breaks.", {"how": {"type": "string"}})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        if arguments["how"] == "key":
            raise AuthFailed("the key is wrong")
        raise ToolFailure("no network", kind="connection")


def compact(*tools: Tool) -> Syntax:
    return Syntax("compact", {tool.name: tool.primary for tool in tools})


def opened(*tools: Tool) -> Any:
    @asynccontextmanager
    async def open_box():
        yield ToolBox(tools)

    return open_box()
