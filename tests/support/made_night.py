"""A night as a run would leave it, without Prefect, Ray or a model: the plan's artifacts, made by the stages.

Recorded traces, the real calculator, the real loss filter on given losses, real judging of written answers.
Checkpoints are small files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agentflow.artifacts.store import Store
from agentflow.records import Rollout
from agentflow.schemas import EVALUATIONS, FILTERED, QUESTIONS, TOOL_TRACES, TRACES
from agentflow.stages.evaluate import chosen, judge
from agentflow.stages.loss_filter import RowScore, Score, decide
from agentflow.stages.questions import questions
from agentflow.stages.tool_insertion import insert_batch
from agentflow.stages.traces import recorded_traces
from agentflow.toolset import make_toolbox
from flows.plan import plan
from flows.recipes import Recipe, load_recipe

SETTINGS = (
    "traces.origin=recorded",
    'tools.names=["Calculator"]',
    "tool_insertion.lookups=none",
    "questions.source.test_arithmetic=40",
    "questions.source.arithmetic_train=40",
    "questions.source.two_hop_train=0",
)
Right = Callable[[int], bool]
# Whether the n-th question is answered rightly.


def recipe(*settings: str) -> Recipe:
    """`smoke`, asking nobody."""
    return load_recipe("smoke", [*SETTINGS, *settings])


def make_night(
    root: Path, night: Recipe, *, right: Right = lambda i: i % 2 == 0, helps: Right = lambda i: True,
    failed: Iterable[int] = (), parts: Sequence[str] = ("data", "models"), completion: str = "<think>{}</think>",
) -> Store:  # fmt: skip
    """Make everything `night` names below `root`.

    `right` says which questions the trained models answer rightly (the base none), `failed` which answers fail by
    infrastructure, `helps` for which rows the calls lower the loss.
    """
    store, nodes = Store.open(root / "artifacts"), plan(night)

    def commit(name: str, outcomes: Any, schema: Any) -> list[dict[str, Any]]:
        store.commit_table(nodes[name].identity, outcomes, schema, recipe=night.name, wall_s=1.0)
        return outcomes.rows

    def files(name: str, relative: str) -> None:
        def write(folder: Path) -> None:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            (folder / relative).write_text(f"{name} of edition {night.edition}")

        store.commit_files(nodes[name].identity, write, recipe=night.name)

    files("base_model", "model.safetensors")
    asked = commit("questions", questions(night.questions), QUESTIONS)
    traced = commit("traces", recorded_traces([row for row in asked if row["split"] == "train"]), TRACES)
    inserting = insert_batch(traced, nodes["tool_insertion"].config, None, make_toolbox(night.tools, None))
    inserted = commit("tool_insertion", asyncio.run(inserting), TOOL_TRACES)
    scores = {row["id"]: _score(row, helps(i)) for i, row in enumerate(inserted)}
    commit("loss_filter", decide(inserted, scores, nodes["loss_filter"].config), FILTERED)
    if "models" not in parts:
        return store
    for name in ("sft", "cold_start", "grpo"):
        files(name, "adapter/adapter_model.safetensors")
    for config in night.evaluate:
        name = next(n for n, node in nodes.items() if node.config == night.fill(config))
        rows = chosen(asked, config)
        rollouts = [
            _answer(row, config.model != "base" and right(i), completion, i in set(failed))
            for i, row in enumerate(rows)
        ]
        commit(name, judge(rows, rollouts, nodes[name].config), EVALUATIONS)
    return store


def _score(row: dict[str, Any], helps: bool) -> RowScore:
    """What a scorer would say of a row."""
    return RowScore(Score(2.0, 1.0 if helps else 3.0, 20), (None,) * row["n_calls"])


def _answer(row: dict[str, Any], right: bool, completion: str, failed: bool) -> Rollout:
    text = completion.format("so it is") + f"<answer>{row['answer'] if right else 'no idea'}</answer>"
    tokens = list(range(len(text.split())))
    return Rollout([1], tokens, [1] * len(tokens), [0.0] * len(tokens), text, failure="timeout" if failed else None)
