"""Identity: what an artifact is, before anything has run.

In: a stage of the DAG, its frozen configuration, the artifacts (or only the identities) it reads.
Out: a fingerprint, equal exactly when stage version, canonical configuration and inputs are equal; and the list of
fields in which two identities differ. Inputs enter by their fingerprint, not by their digest, so that a whole plan
can be computed before its first stage has run. Places and addresses never enter (`config.Where`), nor do worker counts,
but for trainings: there a step holds `batch_size * accumulation * workers` rows.

    Identity("sft", 1, {"lr": 0.001}, {"loss_filter": "5f0c..."}).fingerprint  ->  "b1946ac92492d234"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from agentflow import config as configuration
from agentflow.records import canonical_json, sha256_text
from agentflow.schemas import Stage

FINGERPRINT_LENGTH = 16
# Hex characters, 64 bits: a store with a million artifacts has a chance of 3e-8 of one collision.


class _Absent(Enum):
    ABSENT = "(absent)"

    def __repr__(self) -> str:
        return self.value


ABSENT = _Absent.ABSENT
# The field does not stand on this side at all (unlike a field that is null).


class HasFingerprint(Protocol):
    """An `Artifact` or, where it has not been made yet, its `Identity`."""

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Identity:
    """What an artifact is. Two equal identities may share one artifact."""

    stage: str
    version: int
    # Of the stage's code; raised when the same config and inputs give other rows than before.
    config: dict[str, Any]
    # Canonical JSON data (`config.identity`).
    inputs: dict[str, str]
    # Input name to the fingerprint of the artifact read under that name.

    @property
    def fingerprint(self) -> str:
        """First 16 hex characters of the sha256 of the canonical JSON of all fields."""
        return sha256_text(canonical_json({"stage": self.stage, **self.fields()}))[:FINGERPRINT_LENGTH]

    def fields(self) -> dict[str, Any]:
        """Everything that can change from one run to the next, as data for `changes`."""
        return {"version": self.version, "config": self.config, "inputs": self.inputs}


@dataclass(frozen=True)
class Change:
    """One field that differs. `str(change)` is the line a person reads."""

    field: str
    # Dotted path, e.g. "config.teacher.temperature".
    old: Any
    new: Any
    # ABSENT where the field does not stand on that side.

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


def identity_of(
    stage: Stage, config: configuration.Frozen, inputs: Mapping[str, HasFingerprint], workers: int = 1
) -> Identity:
    """The identity of what `stage` makes of `config` and `inputs` (input name to artifact or identity).

    `workers`: of a training, whose steps hold more rows the more there are; 1 is not written down.
    Raises UnstableValueError for a configuration value without a canonical form, InputError for an unreadable file.
    """
    return Identity(
        stage=stage.name,
        version=stage.version,
        config={**configuration.identity(config), **({"workers": workers} if workers > 1 else {})},
        inputs={name: inputs[name].fingerprint for name in sorted(inputs)},
    )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields in which two pieces of JSON data differ, in sorted order of their dotted paths.

    Lists of equal length are compared item by item (`layers.0`), others as a whole. 1 and 1.0 and True differ, as
    they do in the fingerprint.
    """
    return list(_changes("", dict(old), dict(new)))


def _changes(path: str, old: Any, new: Any) -> list[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        names: list[Any] = sorted(old.keys() | new.keys())
        pairs = [(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(index, a, b) for index, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old is ABSENT or new is ABSENT:
        return [] if old is new else [Change(path, old, new)]
    else:
        return [] if canonical_json(old) == canonical_json(new) else [Change(path, old, new)]
    found: list[Change] = []
    for name, a, b in pairs:
        found += _changes(f"{path}.{name}" if path else str(name), a, b)
    return found
