"""What a configuration is: frozen, closed, and split into *what* (identity) and *where* (never in a fingerprint).

`Frozen` is the base of every stage's and client's configuration. Three marks steer `identity`:

* `Annotated[int, Where()]`: a place or a speed knob (address, concurrency, worker count). Left out.
* `Annotated[Path, LocalFile()]`: a file whose content counts. Replaced by the sha256 of its bytes.
* `extra_identity()`: what a class adds, such as the provider a base URL stands for.
"""

from __future__ import annotations

import hashlib
import math
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentflow.errors import InputError, UnstableValueError


class Where:
    """Mark of a field that says where or how fast, not what: it never enters an identity."""


class LocalFile:
    """Mark of a path that enters an identity as the sha256 of the file's bytes."""


class Frozen(BaseModel):
    """Base of all configurations: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    def extra_identity(self) -> dict[str, Any]:
        """Further identity of this object (e.g. `{"provider": "local"}`); merged over its fields."""
        return {}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}; give the path of an existing file") from error
    return digest.hexdigest()


def identity(value: Any) -> Any:
    """`value` as canonical JSON data: what it is, without where it runs.

    Raises UnstableValueError for anything without a stable form (NaN, sets, open files, functions, bytes).
    """
    if isinstance(value, Frozen):
        return _identity_of_config(value)
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnstableValueError(f"{value!r} has no stable form; use a finite number")
        return value
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: identity(item) for key, item in value.items()}
    raise UnstableValueError(f"{value!r} of type {type(value).__name__} has no stable form; use JSON data")


def _identity_of_config(config: Frozen) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if any(isinstance(mark, Where) for mark in field.metadata):
            continue
        if any(isinstance(mark, LocalFile) for mark in field.metadata):
            result[name] = None if value is None else {"sha256": sha256_file(Path(value))}
        else:
            result[name] = identity(value)
    return {**result, **identity(config.extra_identity())}
