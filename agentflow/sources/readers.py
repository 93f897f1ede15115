"""Raw records of a real data set: a JSONL or Parquet file or a hub id in, one `(key, record or Reject)` per line out.

A line that is not one JSON object, or a Parquet row that is no text, is a quarantined Reject of its own and stops
nothing. Keys are "<file name>:<line>" (from 1) or "<hub id>:<row>". What a record must contain is the data set's
matter (`gsm8k`, `hotpotqa`, ...); they report a bad one by raising `fields.BadRow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from agentflow.errors import InputError
from agentflow.records import Reject
from agentflow.sources.fields import Record

MAX_LINE_BYTES = 4_000_000
# Longest line read; a longer one is quarantined unread (promise P7).
_KEPT_CHARACTERS = 2000
# How much of an unreadable line its Reject keeps.


def read_jsonl(
    path: Path, limit: int | None = None, *, name: str | None = None
) -> Iterator[tuple[str, Record | Reject]]:
    """The first `limit` non-blank lines of a JSONL file (None: all), each as its object or as a Reject.

    `name` stands for the file in the keys (None: its own name). Reasons: "too_long" and "bad_json" (not UTF-8, not
    JSON, NaN, a repeated key, not an object). Raises InputError if the file cannot be read.
    """
    count = 0
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(_lines(stream), start=1):
                if limit is not None and count >= limit:
                    return
                if line.strip():
                    count += 1
                    key = f"{name or path.name}:{number}"
                    yield key, _parse(key, line)
    except OSError as error:
        raise InputError(
            f"cannot read question file {str(path)!r}: {error.strerror}; give the path of an existing JSONL file"
        ) from error


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their end; of one that is too long only the first MAX_LINE_BYTES + 1 bytes are ever in memory."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line.rstrip(b"\r\n")


def _parse(key: str, line: bytes) -> Record | Reject:
    if len(line) > MAX_LINE_BYTES:
        return _unreadable(key, "too_long", f"longer than {MAX_LINE_BYTES} bytes", line)
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return _unreadable(key, "bad_json", f"{error or type(error).__name__}; a line is one JSON object", line)
    if not isinstance(record, dict):
        return _unreadable(key, "bad_json", f"{type(record).__name__} instead of one JSON object", line)
    return record


def _object(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return record


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unreadable(key: str, reason: str, detail: str, line: bytes) -> Reject:
    text = line[:_KEPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return Reject(key, "quarantined", reason, detail[:_KEPT_CHARACTERS], {"line": text})


def read_hub(
    hub_id: str, revision: str, config_name: str | None, split: str, limit: int | None = None
) -> Iterator[tuple[str, Record | Reject]]:
    """The first `limit` rows of a split of a hub data set at a pinned revision. No code of the data set is run.

    Raises InputError if the hub cannot be reached or does not have it.
    """
    import datasets

    try:
        rows = datasets.load_dataset(hub_id, config_name, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"cannot load split {split!r} of {hub_id!r} (configuration {config_name!r}, revision {revision!r}): "
            f"{error}; check the names and the network, or give `path` of a local JSONL file"
        ) from error
    for number, record in enumerate(rows):
        if limit is not None and number >= limit:
            return
        yield f"{hub_id}:{number}", dict(record)
