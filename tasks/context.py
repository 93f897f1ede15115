"""Where a run happens: folders, addresses, cores.

Never part of a fingerprint, but for how many workers train; plain data, so it travels to Ray workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from agentflow.access import Access
from agentflow.artifacts.store import Store
from agentflow.config import Frozen

TrainingStage = Literal["sft", "cold_start", "grpo"]


class Resources(Frozen):
    """What a stage may use, and how long it may wait for it. Read from one file by `tasks.resources`."""

    cpus: int = Field(2, ge=1, validation_alias=AliasChoices("cpus", "num_cpus", "cpus_per_worker"))
    # Cores of each worker.
    gpus: float = Field(0, ge=0, validation_alias=AliasChoices("gpus", "num_gpus", "gpus_per_worker"))
    # GPUs of each worker; a part of one (0.5) lets two workers share it, more than one must be whole.
    workers: int = Field(1, ge=1)
    # Training processes, scoring or answering actors. More than one of a training enter its fingerprint: a step holds
    # batch_size * accumulation * workers rows.
    restarts: int = Field(2, ge=0)
    # How often the stage may go on after a worker or its node died; a worker's own error ends it at once.
    wait_s: float = Field(900, gt=0)
    # Seconds to wait for nodes that have room, at the start and after a death; then the stage fails and says so.

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    @field_validator("gpus")
    @classmethod
    def _whole_gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} GPUs for each worker: give a whole number, or a part of one such as 0.5")
        return value

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where a worker puts its model."""
        return "cuda" if self.gpus else "cpu"

    def asks_for(self) -> str:
        """For messages: `2 workers with 1 CPU and 1 GPU each`."""
        return f"{self.workers} worker{'s' * (self.workers > 1)} with {self.cpus} CPU and {self.gpus:g} GPU each"


class RunContext(Frozen):
    """One run's surroundings."""

    root: Path
    # Holds artifacts/, ledger.db and a folder per recipe.
    recipe: str
    access: Access
    loss_filter: Resources = Resources()
    training: Resources = Resources()
    evaluate: Resources = Resources()
    sft: Resources | None = None
    cold_start: Resources | None = None
    grpo: Resources | None = None
    # None: as `training`.
    decode_batch: int = Field(48, ge=1)
    # Questions a model answers together.
    secrets: dict[str, str] = {}
    # Environment variable -> name of the Prefect Secret block that holds its value; loaded where a client is opened.
    batch_limit: str | None = None
    # Prefect's global concurrency limit of which every paid batch takes a slot; None is no limit.

    def training_of(self, stage: TrainingStage) -> Resources:
        """What a training stage may use."""
        return getattr(self, stage) or self.training

    @property
    def training_workers(self) -> dict[str, int]:
        """Worker processes by training stage, which its fingerprint names."""
        return {stage: self.training_of(stage).workers for stage in get_args(TrainingStage)}

    @property
    def folder(self) -> Path:
        """The recipe's folder: the newest report, progress files, logs."""
        return self.root / self.recipe

    @property
    def reports(self) -> Path:
        """Folder of this run's own report, which no other run writes to."""
        return self.folder / "reports" / self.access.run_id

    def store(self) -> Store:
        """The artifact store below `root`."""
        return Store.open(self.root / "artifacts")

    def progress(self, stage: str) -> Path:
        """File in which `stage` says how far it is."""
        return self.folder / "progress" / f"{stage}.json"


_placed: ContextVar[RunContext] = ContextVar("placed")


@contextmanager
def placed_in(where: RunContext) -> Iterator[None]:
    """Flows that begin inside run in `where`. It is no parameter of theirs: Prefect stores those, and the ledger's
    address may hold a password.
    """
    token = _placed.set(where)
    try:
        yield
    finally:
        _placed.reset(token)


def placed() -> RunContext:
    """Where this flow runs. A function: Ray pickles a flow with the globals it names, which no ContextVar survives."""
    return _placed.get()
