"""What a training worker is told, as JSON-able data: it crosses process borders (Ray Train, torchrun) as plain text,
never as pickle of ours.

A job names folders on a file system that all workers see. The worker of rank 0 fills `out`; `summary.json` in it says
what was done: rows in, rejects, the log history. The stage commits `out` as the artifact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agentflow.access import Access
from agentflow.config import Frozen
from agentflow.rendering import PromptConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.training.config import SupervisedSettings

SUMMARY = "summary.json"
ADAPTER = "adapter"
# Folder inside `out` with the LoRA weights (safetensors) and their configuration.
MERGED = "merged"
# Folder inside `out` with base and adapter as one model, if asked for.
ROLLOUTS = "rollouts"
# Folder inside `out` with all rollouts of a GRPO run as an Arrow dataset.


class SupervisedJob(Frozen):
    """Train (or go on training) a LoRA adapter on rows of FILTERED columns."""

    kind: Literal["supervised"] = "supervised"
    settings: SupervisedSettings
    prompt: PromptConfig
    rows: Path
    # Arrow dataset folder (schemas.FILTERED).
    row_ids: tuple[str, ...] | None = None
    # Only these rows, in this order; None is all.
    base: Path
    adapter: Path | None = None
    # Continue from this adapter; None starts a new one.
    out: Path
    progress: Path | None = None
    # File that gets {"done", "total", "note"} after every step, for the live display.
    events: Path | None = None
    # Folder for TensorBoard's event files; None keeps them with the attempt, which is removed.
    workers: int = 1

    @property
    def adapter_out(self) -> Path:
        return self.out / ADAPTER


class PolicyJob(Frozen):
    """Go on training an adapter by GRPO."""

    kind: Literal["policy"] = "policy"
    config: GrpoConfig
    questions: Path
    # Arrow dataset folder (schemas.QUESTIONS).
    question_ids: tuple[str, ...]
    # In the order of use, repeated where needed.
    base: Path
    adapter: Path
    traces: Path | None = None
    # Arrow dataset folder (schemas.FILTERED), where `config.cycles.reads_traces`.
    access: Access
    out: Path
    progress: Path | None = None
    events: Path | None = None
    workers: int = 1
    decode_batch: int = 32
    # Rows decoded together.

    @property
    def adapter_out(self) -> Path:
        return self.out / ADAPTER

    @property
    def rollouts_out(self) -> Path:
        return self.out / ROLLOUTS


class TrainingSummary(Frozen):
    """What rank 0 leaves behind."""

    rows_in: int
    rows_used: int
    rejects: tuple[dict[str, Any], ...] = ()
    steps: int
    log: tuple[dict[str, Any], ...] = ()
    # TRL's log history: one entry a logging step, {"step", "loss", "learning_rate", ...}.
    tokens_per_row: float | None = None
    trainable_parameters: int | None = None
    extra: dict[str, Any] = {}
