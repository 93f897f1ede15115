"""What a run that goes on says it will still cost: what is committed or stored already is taken off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentflow.artifacts.store import Store
from agentflow.clients.search import SearchClient
from agentflow.clients.teacher import TeacherClient
from agentflow.ledger import Ledger
from agentflow.schemas import QUESTIONS, TOOL_TRACES, TRACES
from agentflow.services.server import LocalService
from agentflow.stages.questions import questions
from agentflow.stages.tool_insertion import insert_batch
from agentflow.stages.traces import trace_batch
from agentflow.toolset import make_toolbox
from flows.estimating import estimates, lines
from flows.plan import decide, plan
from flows.recipes import Recipe, load_recipe
from tasks.batches import batch_key, split

SETTINGS = [
    "traces.samples=2",
    "teacher.usd_per_million_in=1",
    "teacher.usd_per_million_out=2",
    "teacher.max_tokens=99",
]


@dataclass
class Begun:
    """A root whose questions are made, and the stages on them as far as a test takes them."""

    root: Path
    recipe: Recipe
    teacher: LocalService
    search: LocalService

    @property
    def store(self) -> Store:
        return Store.open(self.root / "artifacts")

    def said(self, stage: str, service: str = "teacher") -> str:
        """The line about a stage, as `agentflow plan` prints it."""
        decisions = decide(self.recipe, self.store)
        found = lines(estimates(self.recipe, decisions, self.store, str(self.root / "ledger.db")))
        (line,) = [line for line in found if line.split()[1:3] == [stage, service]]
        return line

    def questions(self) -> list[dict[str, Any]]:
        made = questions(self.recipe.questions)
        self.store.commit_table(plan(self.recipe)["questions"].identity, made, QUESTIONS, recipe=self.recipe.name)
        return [row for row in made.rows if row["split"] == "train"]

    def trace(self, rows: list[dict[str, Any]]) -> Any:
        async def ask() -> Any:
            with Ledger.open(str(self.root / "ledger.db"), run_id="first") as ledger:
                async with TeacherClient.open(
                    self.recipe.teacher, ledger, base_url=self.teacher.base_url, edition=self.recipe.edition
                ) as teacher:
                    return await trace_batch(rows, self.recipe.stage("traces"), teacher)

        return asyncio.run(ask())

    def insert(self, rows: list[dict[str, Any]]) -> Any:
        async def ask() -> Any:
            with Ledger.open(str(self.root / "ledger.db"), run_id="first") as ledger:
                opened = (
                    TeacherClient.open(self.recipe.teacher, ledger, base_url=self.teacher.base_url),
                    SearchClient.open(self.recipe.search, ledger, base_url=self.search.base_url),
                )
                async with opened[0] as teacher, opened[1] as search:
                    toolbox = make_toolbox(self.recipe.tools, search.search)
                    return await insert_batch(rows, self.recipe.stage("tool_insertion"), teacher, toolbox)

        return asyncio.run(ask())


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    with LocalService("teacher", wrong_rate=0.0) as teacher, LocalService("search") as search:
        yield Begun(tmp_path, load_recipe("smoke", SETTINGS), teacher, search)


def test_stored_answers_are_taken_off_before_their_batch_is_committed(begun: Begun) -> None:
    rows = begun.questions()
    everything = begun.said("traces")
    assert " 48 calls, " in everything and "paid" not in everything
    begun.trace(rows[:5])
    said = begun.said("traces")
    assert " 48 calls, of which 10 already paid, " in said
    assert begun.teacher.stats()["requests"] == 10, "an estimate asks nobody"
    begun.trace(rows)
    done = begun.said("traces")
    assert " 48 calls, of which 48 already paid, 0 tokens, expected 0.0000 USD, worst case 0.0000 USD" in done


def test_another_edition_has_nothing_paid(begun: Begun) -> None:
    begun.trace(begun.questions())
    begun.recipe = load_recipe("smoke", [*SETTINGS, "edition=2"])
    assert " 48 calls, " in begun.said("traces") and "already paid" not in begun.said("traces")


def test_committed_batches_are_taken_off_whatever_ledger_they_were_paid_from(begun: Begun) -> None:
    rows = begun.questions()
    batch = split(rows, begun.recipe.traces.batch_size)[0]
    fingerprint = plan(begun.recipe)["traces"].identity.fingerprint
    begun.store.commit_batch("traces", fingerprint, batch_key(batch), begun.trace(batch), TRACES)
    (begun.root / "ledger.db").unlink()
    assert f" 48 calls, of which {2 * len(batch)} already paid, " in begun.said("traces")


def test_lookups_of_committed_batches_and_stored_ones_are_taken_off_and_the_searches_of_batches_too(
    begun: Begun,
) -> None:
    # One sample a question: two may be equal, and then their lookups are one call.
    begun.recipe = load_recipe("smoke", [*SETTINGS, "traces.samples=1", "tool_insertion.batch_size=4"])
    nodes, size = plan(begun.recipe), begun.recipe.tool_insertion.batch_size
    traced = begun.trace(begun.questions())
    begun.store.commit_table(nodes["traces"].identity, traced, TRACES, recipe=begun.recipe.name)
    rows = begun.store.find("traces", nodes["traces"].identity.fingerprint).rows()
    wanting = [row for row in rows if row["answer_type"] == "text"]
    assert f" {len(wanting)} " in begun.said("tool_insertion") and "paid" not in begun.said("tool_insertion")

    batches = split(rows, size)
    with_lookups = [[row for row in batch if row in wanting] for batch in batches]
    first, second = [i for i, batch in enumerate(with_lookups) if batch][:2]
    fingerprint = nodes["tool_insertion"].identity.fingerprint
    made = begun.insert(batches[first])
    begun.store.commit_batch("tool_insertion", fingerprint, batch_key(batches[first]), made, TOOL_TRACES)
    begun.insert(with_lookups[second][:1])  # paid, and then the run was killed
    paid = len(with_lookups[first]) + 1
    assert f", of which {paid} already paid, " in begun.said("tool_insertion")
    left = len(wanting) - len(with_lookups[first])
    searches = begun.said("tool_insertion", "search")
    assert f" {2 * left} (at most {8 * left}) calls, " in searches
    assert f"of the {left} rows that are not done" in searches


def test_searches_of_evaluations_are_bounded(begun: Begun) -> None:
    held_out = 3 + 2 + 2 + 1
    calls = begun.recipe.stage("grpo").generation.max_calls
    with_tools = 4  # base in the style "tools", sft, cold_start, grpo; "plain" has no tools
    expected = f" 0 (at most {with_tools * held_out * calls}) calls, "
    assert expected in begun.said("evaluate", "search")
    begun.questions()
    assert expected in begun.said("evaluate", "search"), "the same once the questions are made"
    begun.recipe = load_recipe("smoke", [*SETTINGS, "evaluate.1.limit=1"])
    assert f" 0 (at most {(3 * held_out + 2) * calls}) calls, " in begun.said("evaluate", "search")
