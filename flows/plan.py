"""The plan of a run: every node of the DAG with its identity, before anything has run; and why each would run or be
reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentflow.artifacts.fingerprint import Change, Identity, changes, identity_of
from agentflow.artifacts.store import Store
from agentflow.config import Frozen
from agentflow.models.sources import HubModel
from agentflow.schemas import STAGES
from flows.recipes import Recipe

Workers = Mapping[str, int]
# Training stage to its number of worker processes, which decides the rows of a step; 1 where it is not named.


@dataclass(frozen=True)
class Node:
    """One artifact of a run."""

    name: str
    # The stage, or e.g. "evaluate-base-plain" where a stage makes several.
    config: Frozen
    identity: Identity


@dataclass(frozen=True)
class Decision:
    """What would happen to a node, and because of which fields."""

    node: Node
    reuse: bool
    changes: tuple[Change, ...]
    # Against the newest artifact of this node made by the same recipe; empty if there is none.

    def line(self) -> str:
        """One line for the CLI."""
        stage, fingerprint = self.node.identity.stage, self.node.identity.fingerprint
        if self.reuse:
            return f"reuse  {self.node.name:24} {stage}/{fingerprint}"
        why = "; ".join(str(change) for change in self.changes[:6]) or "nothing made yet"
        return f"run    {self.node.name:24} {stage}/{fingerprint}  because {why}"


def evaluation_name(model: str, style: str) -> str:
    """Name of an evaluation's node."""
    return f"evaluate-{model}" if style == "trained" else f"evaluate-{model}-{style}"


def plan(recipe: Recipe, workers: Workers | None = None) -> dict[str, Node]:
    """All nodes in the order of the DAG, by name. The wiring of the whole pipeline stands here once.

    Raises InputError for a missing input file and UnstableValueError for a value without a stable form.
    """
    nodes: dict[str, Node] = {}

    def add(name: str, stage: str, config: Frozen, *inputs: str) -> None:
        read = {i: nodes[i].identity for i in inputs}
        identity = identity_of(STAGES[stage], config, read, (workers or {}).get(stage, 1))
        nodes[name] = Node(name, config, identity)

    add("base_model", "base_model", recipe.base_model)
    add("questions", "questions", recipe.questions)
    add("traces", "traces", recipe.stage("traces"), "questions")
    sampler = ("base_model",) if recipe.tool_insertion.sampled else ()
    add("tool_insertion", "tool_insertion", recipe.stage("tool_insertion"), "traces", *sampler)
    add("loss_filter", "loss_filter", recipe.stage("loss_filter"), "tool_insertion", "base_model")
    if recipe.upto == "data":
        return nodes
    add("sft", "sft", recipe.stage("sft"), "loss_filter", "base_model")
    if recipe.trained_upto != "sft":
        add("cold_start", "cold_start", recipe.stage("cold_start"), "loss_filter", "sft", "base_model")
    if recipe.trained_upto == "grpo":
        solutions = ("loss_filter",) if recipe.grpo.cycles.reads_traces else ()
        add("grpo", "grpo", recipe.stage("grpo"), "questions", "cold_start", "base_model", *solutions)
    if recipe.upto == "training":
        return nodes
    for config in recipe.evaluate:
        tuned = () if config.model == "base" else (config.model,)
        name = evaluation_name(config.model, config.style)
        add(name, "evaluate", recipe.fill(config), "questions", "base_model", *tuned)
    return nodes


def missing_revision(recipe: Recipe) -> str | None:
    """What to do about a hub model without a commit, as the presets leave it; None if nothing is missing."""
    source = recipe.base_model.source
    return source.unpinned() if isinstance(source, HubModel) else None


def decide(recipe: Recipe, store: Store, workers: Workers | None = None) -> list[Decision]:
    """For every node: reuse, or run because of which changed fields.

    Looks at manifests only; a run verifies the bytes.
    """
    decisions = []
    for node in plan(recipe, workers).values():
        stage = node.identity.stage
        made = [artifact for artifact in store.list(stage) if artifact.manifest.recipe == recipe.name]
        if any(artifact.fingerprint == node.identity.fingerprint for artifact in store.list(stage)):
            decisions.append(Decision(node, True, ()))
            continue
        if stage == "evaluate":
            made = [
                a for a in made if (a.manifest.config["model"], a.manifest.config["style"]) == _model_and_style(node)
            ]
        newest = made[0].manifest.identity.fields() if made else None
        found = tuple(changes(newest, node.identity.fields())) if newest is not None else ()
        decisions.append(Decision(node, False, found))
    return decisions


def _model_and_style(node: Node) -> tuple[str, str]:
    return node.identity.config["model"], node.identity.config["style"]
