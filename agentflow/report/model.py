"""What a report is built from: plain rows and manifests of one run, collected by the caller.

Comes in: stage manifests as dictionaries, table rows with the columns of `agentflow.schemas`, training logs.
Goes out: `RunRecord`, the only argument of `build.build_report`. It reads no artifact and no ledger itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agentflow.config import Frozen

Rows = list[dict[str, Any]]
# Models in the order of the pipeline; a report shows those it has, others after them.
MODELS = ("base", "sft", "cold_start", "grpo")


class CallUse(Frozen):
    """Calls to one paid service during the run, in calls (attempts of the same call count once)."""

    paid: int = 0
    # Really asked and billed.
    replayed: int = 0
    # Answered from the ledger, free.
    failed: int = 0
    # Attempts without a usable answer; a later attempt of the same call may have got one.
    lost: int = 0
    # In flight when their process died, charged at their worst case. Known only where there is a budget.


class LedgerUse(Frozen):
    """What the run cost at outside services; what its artifacts cost over all runs stands in their manifests."""

    teacher: CallUse = CallUse()
    search: CallUse = CallUse()
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    usd_assumed: float = 0.0
    # The part of `usd` that was counted at its worst case, since nobody said what it was.
    credits: float = 0.0
    # Search credits.


class StageRun(Frozen):
    """One stage as it went in this run."""

    name: str
    status: Literal["ran", "reused"]
    wall_s: float = 0.0
    # Seconds in this run; close to 0 where the artifact was reused.
    peak_rss_mb: float = 0.0
    # Of the whole run's processes while it was made, MiB; 0 where it was too short for a sample.
    manifest: dict[str, Any] = {}
    # The artifact's manifest: stage, fingerprint, counts, rows, keys_in, timings, cost, config, extra.


class Limits(Frozen):
    """How much of the data the page shows. report.json is not affected."""

    text: int = 4000
    # Characters of one text.
    traces: int = 12
    # Sample traces in all, spread over decisions and kinds.
    filter_examples: int = 5
    # Calls that helped most, and as many that helped least.
    rollouts: int = 10_000_000
    # Characters of HTML for all rollouts together; where they are more, whole steps are left out, evenly.
    rejects_per_reason: int = 3
    answers: int = 8
    # Questions whose answers by every model stand side by side.


class RunRecord(Frozen):
    """A finished (or failed) run, ready to be reported."""

    recipe: str
    out_dir: Path
    # `<runs>/<recipe>`; the two files are written there.
    status: Literal["completed", "failed"] = "completed"
    error: str = ""
    # The one message a failed run ended with.
    started_at: str = ""
    # ISO time, shown only.
    wall_s: float = 0.0
    peak_rss_mb: float = 0.0
    # Peak resident memory of the run's process tree, MiB.
    stages: list[StageRun] = []
    # In the order of the DAG.
    ledger: LedgerUse = LedgerUse()
    tables: dict[str, Rows] = {}
    # Rows by stage: tool_insertion (TOOL_TRACES), loss_filter (FILTERED), grpo (ROLLOUTS, each with its `question`),
    # evaluate (EVALUATIONS).
    rejects: dict[str, Rows] = {}
    # Rejected rows by stage (REJECTS), `row` parsed from its JSON: as `Artifact.rejects` gives them.
    logs: dict[str, Rows] = {}
    # Training logs by stage (sft, cold_start, grpo): {"step", "loss", "rewards/<part>/mean", "kl", ...}.
    machine: dict[str, Any] = {}
    times: dict[str, dict[str, dict[str, float]]] = {}
    # By stage: worker seconds by cause and counters (agentflow.clock.read_times).
    notes: list[str] = []
    # What a reader must know to judge the numbers ("losers: drop", "teacher is a local stand-in").
    limits: Limits = Field(default_factory=Limits)
