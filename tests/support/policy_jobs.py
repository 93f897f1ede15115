"""GRPO jobs on the tiny taught model: two groups of four a step, a real calculator, everything else by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import load_from_disk
from pipeline_rows import question_rows, save
from taught_model import teach

from agentflow.access import Access
from agentflow.models.settings import GenerationConfig
from agentflow.rendering import PromptConfig
from agentflow.schemas import QUESTIONS
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.toolset import ToolsConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.jobs import PolicyJob

PROMPT = PromptConfig(system="T")
GROUP = 4


def teach_to_answer_two(base: Path, folder: Path, gold: str | None = None) -> Path:
    """A model in `folder` that mostly answers 2 to the four questions beside it; `gold` replaces their answers."""
    questions = [row for row in question_rows(4) if row["split"] == "train"]
    teach(base, folder, questions, PROMPT, steps=80)
    if gold is not None:
        questions = [{**row, "answer": gold} for row in questions]
    save(questions, folder / "questions", QUESTIONS)
    return folder


def policy_job(
    taught: Path,
    out: Path,
    *,
    access: type[Access] = Access,
    optimiser: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    **changes: Any,
) -> PolicyJob:
    """A job of two steps in which `changes` are fields of GrpoConfig."""
    settings = {"learning_rate": 1e-3, "batch_size": 4, "accumulation": 2, "warmup_ratio": 0.0, **(optimiser or {})}
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(**{"temperature": 1.3, "max_new_tokens": 40, **(generation or {})}),
        optimiser=OptimiserSettings(**settings),
        **{"steps": 2, "group_size": GROUP, **changes},
    )
    questions = load_from_disk(str(taught / "questions")).to_list()
    return PolicyJob(
        config=config,
        questions=taught / "questions",
        question_ids=tuple(row["id"] for row in choose_prompts(questions, config, workers=1)),
        base=taught / "base",
        adapter=taught / "adapter",
        access=access(ledger_url=str(out / "never-opened.db"), run_id="run"),
        out=out,
    )


def rollouts_of(job: PolicyJob) -> list[dict[str, Any]]:
    """The rollouts that a finished job left, in order."""
    return load_from_disk(str(job.rollouts_out)).to_list()


def groups_of(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rollouts by "<step>-<group>"."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["id"].rpartition("-")[0], []).append(row)
    return groups
