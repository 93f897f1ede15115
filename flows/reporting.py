"""From what a run made to its report: collects manifests, rows, logs and the ledger's meters; watches memory too."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.files import storage_errors
from agentflow.clock import read_times
from agentflow.errors import AgentflowError
from agentflow.ledger import Ledger
from agentflow.report.build import build_report
from agentflow.report.evaluation import asked
from agentflow.report.model import CallUse, LedgerUse, RunRecord, StageRun
from agentflow.training.jobs import ROLLOUTS, SUMMARY, TrainingSummary
from flows.recipes import Recipe
from tasks.context import RunContext
from tasks.making import Made

TRAINED = ("sft", "cold_start", "grpo")
SAMPLE_S = 1.0


class RunWatch:
    """How long a run takes, and the peak memory of this process and all its children, in MiB: the sum of what is
    private to each, plus the largest shared part.

    Plain RSS would count the same shared pages (libraries, Ray's object store) once per process.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        # time.monotonic() and MiB.
        self._own_ray = False
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")

    @property
    def wall_s(self) -> float:
        """Seconds since the watch was made."""
        return time.monotonic() - self._started

    @property
    def peak_mb(self) -> float:
        """The largest so far."""
        return max((mb for _, mb in self._samples), default=0.0)

    def peak_between(self, start: float, end: float) -> float:
        """The largest of the samples taken from `start` to `end` (time.monotonic()); 0 where none was, or where Ray,
        in whose processes the stages are made, is not this run's own.
        """
        if not self._own_ray:
            return 0.0
        return max((mb for at, mb in self._samples if start <= at <= end), default=0.0)

    def __enter__(self) -> RunWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            tree = own_tree()
            self._samples.append((time.monotonic(), memory_mb(tree)))
            self._own_ray = self._own_ray or any(process.info["name"] == "raylet" for process in tree)


def own_tree() -> list[psutil.Process]:
    """This process and its descendants, each with `info` {"name", "memory_info"}; without what has just ended."""
    me = psutil.Process()
    found = []
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            process.info = process.as_dict(["name", "memory_info"])
            found.append(process)
    return found


def memory_mb(tree: list[psutil.Process]) -> float:
    """Memory of these processes, MiB (see RunWatch)."""
    private = shared = 0
    for process in tree:
        info = process.info["memory_info"]
        private += info.rss - info.shared
        shared = max(shared, info.shared)
    return (private + shared) / 2**20


def work_and_report(
    recipe: Recipe,
    where: RunContext,
    made: dict[str, Made],
    watch: RunWatch,
    work: Callable[[], None],
    say: Callable[[str], object],
) -> Path:
    """Do `work`, which fills `made`, and write the report of what was made, whether it succeeded or not.

    Returns the report's path; raises what ended `work`, then with the report's path said.
    """
    error: BaseException | None = None
    try:
        work()
    except (Exception, KeyboardInterrupt, asyncio.CancelledError) as caught:
        # Prefect raises the last one in a deployed run whose slot it could not renew.
        error = caught
    try:
        report = write_report(
            recipe,
            where,
            made,
            watch,
            error="" if error is None else str(error) or type(error).__name__,
        )
    except Exception as unwritten:
        if error is None:
            raise
        say(f"no report: {unwritten}")
        raise error from unwritten  # what ended the run matters more
    if error is not None:
        if isinstance(error, AgentflowError):
            say(f"report of what was made: {report}")
        raise error
    return report


def write_report(
    recipe: Recipe,
    where: RunContext,
    made: dict[str, Made],
    watch: RunWatch,
    *,
    error: str,
) -> Path:
    """Write report.html and report.json of a finished or failed run: into a folder of the run's own, which stays, and
    as the newest of its recipe. Returns the newest page's path.
    """
    build_report(
        RunRecord(
            recipe=recipe.name,
            out_dir=where.reports,
            status="failed" if error else "completed",
            error=error,
            started_at=watch.started_at,
            wall_s=round(watch.wall_s, 1),
            peak_rss_mb=round(watch.peak_mb),
            stages=[_stage(one, watch) for one in made.values()],
            ledger=ledger_use(where),
            tables=_tables(made),
            rejects={name: _rejects(one) for name, one in made.items()},
            logs={name: _summary(made[name]).log for name in TRAINED if name in made},
            machine=machine(),
            times=read_times(where.folder, datetime.fromisoformat(watch.started_at).timestamp()),
            notes=list(recipe.notes),
        )
    )
    for name in ("report.json", "report.html"):
        _publish(where.reports / name, where.folder / name)
    return where.folder / "report.html"


def _publish(file: Path, newest: Path) -> None:
    """Make `newest` another name of `file`, in one step, whoever else does the same."""
    name = file.with_name(f".{file.name}-newest")
    with storage_errors(f"make {newest} the newest report"):
        name.unlink(missing_ok=True)
        os.link(file, name)
        os.replace(name, newest)


def _stage(made: Made, watch: RunWatch) -> StageRun:
    return StageRun(
        name=made.name,
        status=made.status,
        wall_s=round(made.wall_s, 2),
        peak_rss_mb=round(watch.peak_between(made.ended - made.wall_s, made.ended)),
        manifest=made.artifact.manifest.model_dump(mode="json"),
    )


def _summary(made: Made) -> TrainingSummary:
    return TrainingSummary.model_validate_json(made.artifact.file(SUMMARY).read_text())


def _rejects(made: Made) -> list[dict[str, Any]]:
    """Rows of REJECTS of a stage, also of a training, whose rows are named in its summary."""
    if made.artifact.is_table:
        return made.artifact.rejects()
    if made.name not in TRAINED:
        return []
    return [{"status": "dropped", "row": {}, **reject} for reject in _summary(made).rejects]


def _tables(made: dict[str, Made]) -> dict[str, list[dict[str, Any]]]:
    table_names = ("tool_insertion", "loss_filter")
    tables: dict[str, list[dict[str, Any]]] = {n: made[n].artifact.rows() for n in table_names if n in made}
    evaluations = [one.artifact for name, one in made.items() if name.startswith("evaluate")]
    tables["evaluate"] = [row for artifact in evaluations for row in asked(artifact)]
    if "grpo" in made:
        tables["grpo"] = _rollouts(made["grpo"].artifact, made["questions"].artifact)
    return tables


def _rollouts(grpo: Artifact, questions: Artifact) -> list[dict[str, Any]]:
    """Rows of ROLLOUTS with the `question` that each is about."""
    rows = grpo.inner_table(ROLLOUTS).to_pylist()
    table = questions.table()
    asked = table.filter(pc.is_in(table["id"], pa.array(sorted({row["question_id"] for row in rows}), pa.string())))
    texts = dict(zip(asked["id"].to_pylist(), asked["question"].to_pylist(), strict=True))
    return [{**row, "question": texts.get(row["question_id"])} for row in rows]


def ledger_use(where: RunContext) -> LedgerUse:
    """What this run paid, had replayed, failed to get and lost with processes that died."""
    with where.access.open_ledger() as ledger:
        usage = ledger.usage(where.access.run_id)
    return LedgerUse(
        teacher=_calls(usage["teacher"]),
        search=_calls(usage["search"]),
        tokens_in=usage["tokens_in"],
        tokens_out=usage["tokens_out"],
        usd=usage["usd"],
        usd_assumed=usage["usd_assumed"],
        credits=usage["credits"],
    )


def _calls(usage: dict[str, int]) -> CallUse:
    return CallUse(paid=usage["paid"], replayed=usage["replayed"], failed=usage["failed"], lost=usage["lost"])


def machine() -> dict[str, Any]:
    """What the run ran on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }


def open_run_ledger(where: RunContext, budget_usd: float | None) -> None:
    """Make the ledger and the run's purse before any worker opens them; raises StoreError for a ledger that cannot be
    used.
    """
    access = where.access
    ledger = Ledger.open(
        access.ledger_url, run_id=access.run_id, mode=access.mode, budget_usd=budget_usd, budget_key=access.budget_key
    )
    ledger.close()
