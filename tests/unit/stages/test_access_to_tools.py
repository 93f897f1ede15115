"""From plain data to open tools: what a worker gets, and that nothing is opened that nobody asked for."""

from __future__ import annotations

import asyncio

import pytest

from agentflow.access import Access
from agentflow.clients.search import SearchConfig
from agentflow.errors import ConfigError
from agentflow.ledger import Ledger
from agentflow.records import ToolCall
from agentflow.tools.web_search import WebSearchConfig
from agentflow.toolset import ToolsConfig, make_toolbox, syntax_for

CALCULATOR = ToolsConfig(names=("Calculator",))
SUM, QUERY = ToolCall("Calculator", {"expression": "6*7"}), ToolCall("Search", {"query": "a city"})


def run(access, tools, calls, ledger=None):
    async def opened():
        async with access.open_toolbox(tools, SearchConfig(), "1", ledger) as box:
            return [await box.run(call) for call in calls]

    return asyncio.run(opened())


def test_a_calculator_alone_opens_neither_ledger_nor_service(tmp_path):
    access = Access(ledger_url=str(tmp_path / "ledger.db"), run_id="run")
    assert [result.text for result in run(access, CALCULATOR, [SUM])] == ["42"]
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_paid_for_in_a_ledger_of_its_own_and_replayed_from_it(search_service, tmp_path):
    search_service.reset()
    access = Access(ledger_url=str(tmp_path / "ledger.db"), run_id="run", search_url=search_service.base_url)
    first, second = (run(access, ToolsConfig(), [QUERY])[0] for _ in range(2))
    assert first == second and first.error is None and first.text
    assert search_service.stats()["requests"] == 1
    with Ledger.open(str(tmp_path / "ledger.db"), run_id="other") as ledger:
        assert ledger.get(first.ledger_key) is not None


def test_an_open_ledger_is_used_as_it_is(search_service, ledger, tmp_path):
    access = Access(ledger_url=str(tmp_path / "unused.db"), run_id="run", search_url=search_service.base_url)
    (result,) = run(access, ToolsConfig(), [QUERY], ledger)
    assert ledger.get(result.ledger_key) is not None
    assert not (tmp_path / "unused.db").exists()


def test_replaying_needs_no_service_at_all(search_service, tmp_path):
    url = str(tmp_path / "ledger.db")
    (paid,) = run(Access(ledger_url=url, run_id="one", search_url=search_service.base_url), ToolsConfig(), [QUERY])
    (replayed,) = run(Access(ledger_url=url, run_id="two", mode="replay"), ToolsConfig(), [QUERY])
    assert replayed == paid


def test_search_without_a_search_client_is_refused():
    with pytest.raises(ConfigError, match="tool 'Search' is configured but no search service is open"):
        make_toolbox(ToolsConfig(), None)


def test_the_configuration_of_a_tool_reaches_it(search_service, tmp_path):
    access = Access(ledger_url=str(tmp_path / "ledger.db"), run_id="run", search_url=search_service.base_url)
    tools = ToolsConfig(names=("Search",), web_search=WebSearchConfig(max_query_chars=3))
    (refused,) = run(access, tools, [QUERY])
    assert refused.error == "argument 'query' must have at most 3 characters"


@pytest.mark.parametrize("name", ["compact", "json"])
def test_every_tool_can_be_written_in_every_syntax(name):
    for call in (SUM, QUERY):
        assert syntax_for(name).representable(call)


def test_what_travels_to_a_worker_comes_back_the_same():
    access = Access(ledger_url="x.db", run_id="run", mode="replay", search_url="http://127.0.0.1:1")
    assert Access.model_validate_json(access.model_dump_json()) == access
