"""GRPO jobs on the taught tiny model by the fields that matter: two steps of two groups of four, a real calculator."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import taught_model
from datasets import load_from_disk
from pipeline_rows import question_rows, save
from taught_model import PROMPT

from agentflow.access import Access
from agentflow.models.settings import GenerationConfig
from agentflow.schemas import QUESTIONS
from agentflow.stages.grpo import GrpoConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.jobs import PolicyJob

GROUP = 4


def asked_for(taught: Path, folder: Path, answer: str) -> Path:
    """`taught` in `folder`, with `answer` as every question's gold answer: 2 is what the model mostly says."""
    for name in ("base", "adapter"):
        shutil.copytree(taught / name, folder / name)
    questions = [{**row, "answer": answer} for row in question_rows(4) if row["split"] == "train"]
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
    """A job in which `changes` are fields of GrpoConfig."""
    settings = {"learning_rate": 1e-3, "batch_size": 4, "accumulation": 2, "warmup_ratio": 0.0, **(optimiser or {})}
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(**{"temperature": 1.3, "max_new_tokens": 40, **(generation or {})}),
        optimiser=OptimiserSettings(**settings),
        **{"steps": 2, "group_size": GROUP, **changes},
    )
    return taught_model.policy_job(taught, out, config, access(ledger_url=str(out / "never-opened.db"), run_id="run"))


def rollouts_of(job: PolicyJob) -> list[dict[str, Any]]:
    """The rollouts that a finished job left, in order."""
    return load_from_disk(str(job.rollouts_out)).to_list()


def groups_of(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rollouts by "<step>-<group>"."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["id"].rpartition("-")[0], []).append(row)
    return groups
