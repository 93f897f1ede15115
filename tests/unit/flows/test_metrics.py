"""A run's numbers as Prometheus reads them, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from agentflow.access import Access
from agentflow.artifacts.fingerprint import identity_of
from agentflow.clients.search import SearchConfig
from agentflow.clock import GENERATED, here, recording
from agentflow.ledger import Ledger
from agentflow.ledger.database import open_engine
from agentflow.ledger.models import BUDGETS, RESERVATIONS
from agentflow.ledger.places import me
from agentflow.schemas import QUESTIONS, STAGES
from agentflow.services.server import LocalService
from agentflow.sources.source import GeneratedSource
from agentflow.stages.questions import QuestionsConfig, questions
from agentflow.tools.contract import ToolCall
from agentflow.toolset import ToolsConfig
from flows.local import free_port
from flows.metrics import serve_metrics
from flows.reporting import open_run_ledger
from tasks.context import RunContext
from tasks.making import Made


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """(name, label values without recipe and run) -> value."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k not in ("recipe", "run"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_calls_rows_and_times_of_a_run(tmp_path: Path) -> None:
    said: list[str] = []
    with LocalService("search") as search:
        access = Access(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}", run_id="r1", search_url=search.base_url)
        where = RunContext(root=tmp_path, recipe="smoke", access=access)
        open_run_ledger(where, None)
        config = QuestionsConfig(source=GeneratedSource(arithmetic_train=4, two_hop_train=0))
        identity = identity_of(STAGES["questions"], config, {})
        artifact = where.store().commit_table(identity, questions(config), QUESTIONS, recipe="smoke")
        made = {"questions": Made("questions", artifact, "ran", 1.25)}
        port = free_port(None, "metrics")
        with serve_metrics(port, where, made, said.append):
            assert scrape(port)["agentflow_calls_total", "paid", "search"] == 0

            async def ask() -> None:
                async with access.open_toolbox(ToolsConfig(), SearchConfig(), "1") as tools:
                    for _ in range(2):  # the second is replayed
                        await tools.run(ToolCall("Search", {"query": "Who wrote the first atlas?"}))

            asyncio.run(ask())
            with recording(where.progress("grpo")):
                here().add("train", 2.0)
                here().count(GENERATED, 7)
            seen = scrape(port)
            # A second run of the same worker goes on without metrics, and says so.
            with serve_metrics(port, where, made, said.append):
                pass
        with pytest.raises(httpx.ConnectError):
            scrape(port)
    assert seen["agentflow_calls_total", "paid", "search"] == 1
    assert seen["agentflow_calls_total", "replayed", "search"] == 1
    assert seen["agentflow_rows", "out", "questions"] == artifact.manifest.counts.out > 0
    assert seen["agentflow_stage_seconds", "questions", "ran"] == 1.25
    assert seen["agentflow_worker_seconds_total", "train", "grpo"] == 2.0
    assert seen["agentflow_tokens_generated_total", "grpo"] == 7
    assert len(said) == 1 and f"port {port} of 127.0.0.1 is in use" in said[0]


def test_calls_whose_process_died_are_lost_and_their_money_is_assumed(tmp_path: Path) -> None:
    access = Access(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}", run_id="r1", budget_key="r1")
    Ledger.open(access.ledger_url, run_id="r1", budget_usd=1.0).close()
    engine = open_engine(access.ledger_url)
    with engine.begin() as connection:
        owner = me().rsplit("|", 2)[0] + "|999999999|1.0"
        row = {"id": "a", "budget_key": "r1", "run_id": "r1", "key": "k", "kind": "teacher", "micro": 300_000}
        more = {"tokens_in": 5, "tokens_out": 9, "credits": 0.0, "owner": owner, "at": ""}
        connection.execute(insert(RESERVATIONS), row | more)
        connection.execute(update(BUDGETS).values(reserved_micro=300_000))
    engine.dispose()
    with access.open_ledger():  # the next process that opens the purse finds them
        pass
    port = free_port(None, "metrics")
    with serve_metrics(port, RunContext(root=tmp_path, recipe="smoke", access=access), {}, print):
        seen = scrape(port)
    assert seen["agentflow_calls_total", "lost", "teacher"] == 1
    assert seen["agentflow_calls_total", "failed", "teacher"] == 0
    assert seen["agentflow_cost_usd_assumed_total",] == seen["agentflow_cost_usd_total",] == pytest.approx(0.3)
