"""The manifest: an artifact folder's own account of itself. It is written last; without it there is no artifact.

In: what a stage knows when it has finished. Out: `manifest.json`, readable by a person, with the sha256 of every file
and of itself. It does not read or verify the files (see `artifact`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import agentflow
from agentflow.artifacts.fingerprint import Identity
from agentflow.errors import ConservationError, CorruptArtifact
from agentflow.records import Outcomes, canonical_json, sha256_text

MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """A file of the artifact: path relative to its folder, size in bytes, hex sha256."""

    path: str
    bytes: int
    sha256: str


class Counts(_Record):
    """Where every input key went (promise P2). All numbers are input keys, not rows."""

    out: int = 0
    # Keys with at least one output row.
    dropped: dict[str, int] = {}
    quarantined: dict[str, int] = {}
    failed: dict[str, int] = {}
    # Reason to number of keys.

    @classmethod
    def of(cls, outcomes: Outcomes) -> Counts:
        """Count `outcomes`. Raises ConservationError for a key that is rejected twice, or rejected and out as well."""
        seen: set[str] = {row["id"] for row in outcomes.rows if isinstance(row.get("id"), str)}
        by_status: dict[str, Counter[str]] = {"dropped": Counter(), "quarantined": Counter(), "failed": Counter()}
        for reject in outcomes.rejects:
            if reject.key in seen:
                raise ConservationError(f"key {reject.key!r} is accounted for twice, at last as {reject.reason!r}")
            seen.add(reject.key)
            if reject.status not in by_status:
                raise ConservationError(f"key {reject.key!r} is rejected with status {reject.status!r}")
            by_status[reject.status][reject.reason] += 1
        sorted_counts = {status: dict(sorted(count.items())) for status, count in by_status.items()}
        return cls(out=outcomes.keys_out, **sorted_counts)

    @property
    def total(self) -> int:
        """All keys accounted for."""
        rejected = (self.dropped, self.quarantined, self.failed)
        return self.out + sum(sum(reasons.values()) for reasons in rejected)

    def check(self, keys_in: int) -> None:
        """Raise ConservationError unless in = out + dropped + quarantined + failed."""
        if self.total != keys_in:
            raise ConservationError(
                f"{keys_in} keys in, but {self.out} out + {self.dropped} dropped + {self.quarantined} quarantined"
                f" + {self.failed} failed = {self.total}"
            )


class Manifest(_Record):
    """Everything known about one artifact. `rows`, `counts`, `schema_hash`, `digest` are None for checkpoints."""

    stage: str
    version: int
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    # Input name to fingerprint.
    files: list[FileEntry]
    rows: int | None = None
    # Output rows; may be more than counts.out (k samples of one question).
    keys_in: int | None = None
    counts: Counts | None = None
    schema_hash: str | None = None
    digest: str | None = None
    # Content of the table whatever its order and file layout (`tables.table_digest`).
    cost: dict[str, Any] = {}
    # What the ledger metered for it, over all runs that worked on it, failed and killed ones too (`Efforts.spent`):
    # {"teacher": {"paid": 12, "replayed": 0, "failed": 1, "lost": 0}, "search": {...}, "usd": 0.03, "runs": 2, ...}.
    timings: dict[str, float] = {}
    # Seconds; always has "wall_s".
    code_version: str
    created_at: str
    # ISO 8601 in UTC. For people and for `Store.latest`; in no key and in no digest.
    recipe: str
    # The recipe that made it first; others may reuse it.
    extra: dict[str, Any] = {}
    # Metrics of the stage's own.

    @property
    def identity(self) -> Identity:
        """The identity it was made for."""
        return Identity(self.stage, self.version, self.config, self.inputs)

    def to_json(self) -> str:
        """The text of `manifest.json`: the fields plus `checksum`, the sha256 of their canonical JSON."""
        return sealed(self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Parse and check a manifest. Raises CorruptArtifact if it is torn or edited, OSError if it cannot be read."""
        try:
            manifest = cls.model_validate(unsealed(path.read_bytes()))
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(f"{path} is not a whole manifest: {error}") from error
        if manifest.fingerprint != manifest.identity.fingerprint:
            raise CorruptArtifact(f"{path} names fingerprint {manifest.fingerprint}, its content is another identity")
        return manifest


def sealed(fields: dict[str, Any]) -> str:
    """`fields` as readable JSON with a `checksum`: the sha256 of their canonical form."""
    return json.dumps({**fields, "checksum": sha256_text(canonical_json(fields))}, indent=1, allow_nan=False) + "\n"


def unsealed(content: bytes) -> dict[str, Any]:
    """The inverse of `sealed`. Raises ValueError if the text is torn or was changed after it was written."""
    fields = json.loads(content)
    if not isinstance(fields, dict) or fields.pop("checksum", None) != sha256_text(canonical_json(fields)):
        raise ValueError("it was changed after it was written (its checksum does not match)")
    return fields


@cache
def code_version() -> str:
    """`<package version>+<hash>`: the hash is over all our Python sources, so it also tells uncommitted edits apart."""
    package = Path(agentflow.__file__).parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return f"{agentflow.__version__}+{digest.hexdigest()[:12]}"
