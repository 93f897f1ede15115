"""How to reach the ledger and the services from any process: plain data, so it travels to Ray workers as text.

Holds addresses and names, never a key: keys come from the environment of the process that opens a client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentflow.config import Frozen
from agentflow.ledger import Ledger, Mode
from agentflow.tools.contract import ToolBox
from agentflow.toolset import ToolsConfig, make_toolbox

if TYPE_CHECKING:
    from agentflow.clients.search import SearchConfig
    from agentflow.clients.teacher import TeacherClient, TeacherConfig


class Access(Frozen):
    """Where the ledger is and where the local stand-ins listen, if they run."""

    ledger_url: str
    run_id: str
    mode: Mode = "record"
    budget_key: str | None = None
    # The purse in the ledger that calls are paid from; None is no limit.
    teacher_url: str | None = None
    search_url: str | None = None
    # Addresses of the local stand-ins; None where real endpoints are configured.

    def open_ledger(self) -> Ledger:
        """This run's ledger; close it (it is a context manager)."""
        return Ledger.open(self.ledger_url, run_id=self.run_id, mode=self.mode, budget_key=self.budget_key)

    @asynccontextmanager
    async def open_teacher(self, config: TeacherConfig, ledger: Ledger, edition: str) -> AsyncIterator[TeacherClient]:
        """The teacher client; raises MissingKeyError if a real host is configured without its key."""
        from agentflow.clients.teacher import TeacherClient  # with its SDK: only where a teacher is asked

        async with TeacherClient.open(config, ledger, base_url=self.teacher_url, edition=edition) as client:
            yield client

    @asynccontextmanager
    async def open_toolbox(
        self, tools: ToolsConfig, search: SearchConfig, edition: str, ledger: Ledger | None = None
    ) -> AsyncIterator[ToolBox]:
        """The configured tools; opens a ledger of its own if none is given and Search needs one."""
        if "Search" not in tools.names:
            yield make_toolbox(tools, None)
        elif ledger is None:
            with self.open_ledger() as own:
                async with self.open_toolbox(tools, search, edition, own) as box:
                    yield box
        else:
            from agentflow.clients.search import SearchClient

            async with SearchClient.open(search, ledger, base_url=self.search_url, edition=edition) as client:
                yield make_toolbox(tools, client.search)
