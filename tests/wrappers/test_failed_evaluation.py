"""An evaluation whose search fails for one question: nothing is published, what was answered is kept, and running again
asks the service and the model only for the rest. Counts are the service's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_flow
import pytest
from pipeline_rows import question_rows
from prefect import flow
from prefect_ray import RayTaskRunner
from taught_model import PROMPT, teach

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.errors import BudgetExceeded, StageIncomplete
from agentflow.records import Outcomes, Segment, ToolCall, ToolResult
from agentflow.schemas import EVALUATIONS, QUESTIONS
from agentflow.services.server import LocalService
from flows.plan import plan
from flows.recipes import load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of
from tasks.context import Resources, RunContext
from tasks.evaluate import make_evaluation, open_answerers
from tasks.making import Made

pytestmark = pytest.mark.faults

ASKED = [row for row in question_rows(3) if row["split"] == "train"]
WORDS = {row["id"]: f"fact {name}" for row, name in zip(ASKED, ("one", "two", "three"), strict=True)}
BROKEN = [{"kind": "status", "status": 500, "contains": "fact two"}]


def searching(row: dict[str, Any]) -> list[Segment]:
    call = ToolCall("Search", {"query": WORDS[row["id"]]})
    return [Segment("call", call=call, result=ToolResult("-")), Segment("text", text=" so.")]


@pytest.fixture(scope="module")
def taught(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that looks a fact of its own up for every question."""
    folder = tmp_path_factory.mktemp("taught")
    teach(tiny_base, folder, ASKED, PROMPT, 60, searching)
    return folder / "base"


@pytest.fixture(scope="module")
def search(ray_up: None) -> Iterator[LocalService]:
    with data_flow.services(load_recipe("smoke"))[1] as service:
        yield service


@flow(name="evaluation", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def evaluation(identity: Identity, config: Any, questions: Made, base: Made, where: RunContext) -> Made:
    with open_answerers(where) as answerers:
        return make_evaluation("evaluate-base", identity, config, questions, base, None, answerers, where)


def evaluate(root: Path, taught: Path, search: LocalService, budget_usd: float | None = None, **fields: Any) -> Made:
    """One model, one worker, one question a batch."""
    asked = {"model": "base", "splits": ["train"], "generation": {"max_new_tokens": 60}, **fields}
    settings = [f"prompt={PROMPT.model_dump_json()}", "search.max_attempts=1", "search.usd_per_credit=0.008"]
    recipe = load_recipe("smoke", [*settings, f"evaluate={json.dumps([asked])}"])
    nodes = plan(recipe)
    (node,) = (nodes[name] for name in nodes if name.startswith("evaluate"))
    where = context_of(recipe, RunOptions(root=root, cpus=2, budget_usd=budget_usd), None, search.base_url)
    where = where.model_copy(update={"evaluate": Resources(cpus=1, workers=1), "decode_batch": 1})
    store = where.store()
    open_run_ledger(where, budget_usd)

    def write(folder: Path) -> None:
        for file in taught.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    base = store.commit_files(nodes["base_model"].identity, write, recipe="smoke")
    table = Outcomes(ASKED, [], len(ASKED), len(ASKED))
    questions = store.commit_table(nodes["questions"].identity, table, QUESTIONS, recipe="smoke")
    made = (Made("questions", questions, "ran", 0.0), Made("base_model", base, "ran", 0.0))
    return evaluation(node.identity, node.config, *made, where)


def stages(root: Path) -> list[str]:
    folder = root / "artifacts" / "evaluate"
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


@pytest.fixture(autouse=True)
def no_faults(search: LocalService) -> None:
    search.reset()


def test_a_failed_search_publishes_nothing_and_the_next_run_answers_the_rest(
    taught: Path, search: LocalService, tmp_path: Path
) -> None:
    search.set_faults(BROKEN)
    with pytest.raises(StageIncomplete, match=r"the tools of 1 of 3 questions failed \(1 server_error") as raised:
        evaluate(tmp_path, taught, search)
    assert "fact two" in str(raised.value) and "every paid answer is kept" in str(raised.value)
    assert stages(tmp_path) == [] and search.stats()["paid"] == 2

    search.clear_faults()
    made = evaluate(tmp_path, taught, search)
    assert search.stats()["paid"] == 3, "only the missing search"
    rows = made.artifact.rows()
    assert [(row["status"], row["n_calls"]) for row in rows] == [("ok", 1)] * 3
    assert made.artifact.manifest.counts.failed == {} and EVALUATIONS.names == list(rows[0])
    undisturbed = evaluate(tmp_path / "other", taught, search).artifact
    assert undisturbed.manifest.digest == made.artifact.manifest.digest


def test_what_may_fail_is_counted_and_kept_apart_from_what_was_answered(
    taught: Path, search: LocalService, tmp_path: Path
) -> None:
    search.set_faults(BROKEN)
    artifact: Artifact = evaluate(tmp_path, taught, search, failure_budget=1).artifact
    assert len(artifact.rows()) == 2 and artifact.manifest.counts.failed == {"server_error": 1}
    (reject,) = artifact.rejects()
    assert reject["row"]["status"] == "failed" and "fact two" in reject["row"]["completion"]


def test_a_budget_that_ends_in_an_evaluation_is_one_message(taught: Path, search: LocalService, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded) as raised:
        evaluate(tmp_path, taught, search, budget_usd=0.01)
    assert "Traceback" not in str(raised.value) and "\n" not in str(raised.value)
    assert stages(tmp_path) == [] and search.stats()["paid"] == 1
