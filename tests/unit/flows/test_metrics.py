"""A run's numbers as Prometheus reads them, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentflow.access import Access
from agentflow.artifacts.fingerprint import identity_of
from agentflow.clients.search import SearchConfig
from agentflow.clock import GENERATED, here, recording
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
