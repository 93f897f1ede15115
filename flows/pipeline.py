"""The pipeline on one page: questions -> traces -> tool insertion -> loss filter -> SFT -> cold start -> GRPO ->
evaluation.
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_link_artifact
from prefect_ray import RayTaskRunner

from agentflow.artifacts.fingerprint import Identity
from flows.plan import evaluation_name, plan
from flows.promoting import gate_run
from flows.recipes import Recipe
from flows.signals import terminable
from tasks.context import RunContext, placed
from tasks.evaluate import make_evaluation, open_answerers
from tasks.loss_filter import make_loss_filter
from tasks.making import Made
from tasks.simple import make_base_model, make_questions
from tasks.tool_insertion import make_tool_insertion
from tasks.traces import make_traces
from tasks.training import make_cold_start, make_grpo, make_sft

Part = Literal["data", "training", "evaluation"]


# retries=0: a retry is asked for in the UI or by running again, and does only what is missing.
@flow(name="pipeline", retries=0, task_runner=RayTaskRunner(), persist_result=False)
def pipeline(recipe: Recipe) -> None:
    """Make every artifact of `recipe` that is not there yet, in the place it is `placed_in`."""
    with terminable():
        make_all(recipe, placed())


def make_all(recipe: Recipe, where: RunContext, upto: Part = "evaluation") -> None:
    """The stages in the order of the DAG, up to and with the part `upto`."""
    nodes = plan(recipe, where.training_workers)
    report = where.reports.absolute() / "report.html"
    said = f"Written when the run ends, on the machine it was started from: {report}"
    create_link_artifact(key="report", link=report.as_uri(), link_text="report.html", description=said)

    def of(name: str) -> tuple[Identity, Any]:
        return nodes[name].identity, nodes[name].config

    base = make_base_model(*of("base_model"), where)
    questions = make_questions(*of("questions"), where)
    traces = make_traces(*of("traces"), questions, where)
    inserted = make_tool_insertion(*of("tool_insertion"), traces, where, base)
    kept = make_loss_filter(*of("loss_filter"), inserted, base, where)
    if "data" in (upto, recipe.upto):
        gate_run(recipe, where, "data")
        return
    sft = make_sft(*of("sft"), kept, base, where)
    tuned: dict[str, Made | None] = {"base": None, "sft": sft}
    if "cold_start" in nodes:
        tuned["cold_start"] = cold_start = make_cold_start(*of("cold_start"), kept, sft, base, where)
        if "grpo" in nodes:
            tuned["grpo"] = make_grpo(*of("grpo"), questions, kept, cold_start, base, where)
    if "training" in (upto, recipe.upto):
        return
    with open_answerers(where) as answerers:
        for config in recipe.evaluate:
            name = evaluation_name(config.model, config.style)
            evaluate = make_evaluation.with_options(task_run_name=name)
            evaluate(name, *of(name), questions, base, tuned[config.model], answerers, where)
    gate_run(recipe, where, "full")
