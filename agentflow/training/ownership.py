"""Whose a checkpoint is: a hash of all that decides what a training does, for `checkpoint.json`.

In: a job's settings and the very data that it trains on, its base and its adapter. Out: hex characters. Places never
enter (out, progress, events, addresses, `config.Where`), nor does the number of workers, which the seal names itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentflow.artifacts.manifest import MANIFEST
from agentflow.config import Frozen, identity
from agentflow.models.loading import held_in_four_bits, resolve
from agentflow.records import canonical_json

WHOLE = 64 * 2**20
# Bytes up to which a file is read as a whole; of larger ones size, begin and end are.
_EDGE = 2**20


def job_digest(settings: Mapping[str, Frozen], base: Path, adapter: Path | None, data: Iterable[Any]) -> str:
    """sha256 of `settings` by name, the weights in `base` and `adapter`, and `data` (JSON values, in order).

    Raises UnstableValueError for a setting without a canonical form.
    """
    digest = hashlib.sha256()
    digest.update(canonical_json({name: identity(value) for name, value in settings.items()}).encode())
    for folder in (base, adapter):
        digest.update(b"\n-" if folder is None else canonical_json(_weights(folder)).encode())
    for value in data:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _weights(folder: Path) -> list[Any]:
    """What a model's folder holds, by relative name; a model of the hub is its commit."""
    name, revision = resolve(folder)
    held = held_in_four_bits(folder)
    if revision is not None:
        return [held, name, revision]
    root = Path(name)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [held, *([path.relative_to(root).as_posix(), path.stat().st_size, _bytes(path)] for path in files)]


def _bytes(path: Path) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as stream:
        if size <= WHOLE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(_EDGE))
            stream.seek(size - _EDGE)
            digest.update(stream.read())
    return digest.hexdigest()
