"""The tools a recipe offers, opened for use; and the call syntax that fits them.

In: which tools, and (for Search) a search client. Out: a `ToolBox`. One place that knows all tools by name, so that
insertion, cold start, GRPO and evaluation cannot disagree about them.
"""

from __future__ import annotations

from typing import Literal

from agentflow.config import Frozen
from agentflow.errors import ConfigError
from agentflow.syntax import Syntax, SyntaxName
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import Tool, ToolBox
from agentflow.tools.web_search import Search, WebSearch, WebSearchConfig

PRIMARY = {tool.name: tool.primary for tool in (Calculator, WebSearch)}


class ToolsConfig(Frozen):
    """Which tools a model may call."""

    names: tuple[Literal["Calculator", "Search"], ...] = ("Calculator", "Search")
    web_search: WebSearchConfig = WebSearchConfig()


def syntax_for(name: SyntaxName) -> Syntax:
    """The surface form `name` for all tools."""
    return Syntax(name, PRIMARY)


def make_toolbox(config: ToolsConfig, search: Search | None) -> ToolBox:
    """The tools of `config`; raises ConfigError if Search is wanted and no search client is given."""
    tools: list[Tool] = []
    for name in config.names:
        if name == "Calculator":
            tools.append(Calculator())
        elif search is None:
            raise ConfigError(
                "tool 'Search' is configured but no search service is open; configure one or leave it out"
            )
        else:
            tools.append(WebSearch(search, config.web_search))
    return ToolBox(tools)
