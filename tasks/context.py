"""Where a run happens: folders, addresses, cores.

Never part of a fingerprint; plain data, so it travels to Ray workers.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentflow.access import Access
from agentflow.artifacts.store import Store
from agentflow.config import Frozen


class Resources(Frozen):
    """What a stage may use."""

    cpus: int = Field(2, ge=1)
    gpus: float = Field(0, ge=0)
    workers: int = Field(1, ge=1)
    # Training processes or scoring actors.


class RunContext(Frozen):
    """One run's surroundings."""

    root: Path
    # Holds artifacts/, ledger.db and a folder per recipe.
    recipe: str
    access: Access
    loss_filter: Resources = Resources()
    training: Resources = Resources()
    evaluate: Resources = Resources()
    decode_batch: int = Field(48, ge=1)
    # Questions a model answers together.

    @property
    def folder(self) -> Path:
        """The recipe's folder: reports, progress files, logs."""
        return self.root / self.recipe

    def store(self) -> Store:
        """The artifact store below `root`."""
        return Store.open(self.root / "artifacts")

    def progress(self, stage: str) -> Path:
        """File in which `stage` says how far it is."""
        return self.folder / "progress" / f"{stage}.json"
