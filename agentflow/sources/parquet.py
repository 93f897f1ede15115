"""Raw records of a Parquet file, a batch at a time: one `(key, record or Reject)` per row.

A row that is no text (strings that are not UTF-8) or too large is a quarantined Reject of its own. A file that is no
Parquet, or damaged, cannot be read row by row and is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agentflow.errors import InputError
from agentflow.records import Reject
from agentflow.sources.fields import Record

MAX_ROW_BYTES = 4_000_000
# Largest row taken, as Arrow holds it (promise P7).
_MAGIC = b"PAR1"
_BATCH_ROWS = 256
# Rows with ten pages of context each still fit into memory.


def is_parquet(path: Path) -> bool:
    """Whether the file is named or begins like one. Raises InputError if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return path.suffix.lower() in (".parquet", ".pq") or stream.read(4) == _MAGIC
    except OSError as error:
        raise InputError(
            f"cannot read question file {str(path)!r}: {error.strerror}; "
            "give the path of an existing JSONL or Parquet file"
        ) from error


def read_parquet(
    path: Path, limit: int | None = None, *, name: str | None = None
) -> Iterator[tuple[str, Record | Reject]]:
    """The first `limit` rows (None: all), keyed "<name>:<row>" from 1. Reasons: "too_long" and "bad_text".

    Raises InputError for a file that is damaged, or that holds a type only code of somebody else's could read.
    """
    count = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_extensions(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                wanted = batch if limit is None else batch.slice(0, limit - count)
                for offset, record in enumerate(_records(wanted)):
                    key = f"{name or path.name}:{count + offset + 1}"
                    yield key, record if isinstance(record, dict) else Reject(key, "quarantined", *record)
                count += wanted.num_rows
                if count == limit:
                    return
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"cannot read {str(path)!r} as Parquet: {error}; give a whole Parquet file, or JSONL with another name"
        ) from error


def _records(batch: pa.RecordBatch) -> Iterator[Record | tuple[str, str]]:
    """Each row, or its reason and detail. Row by row only where the batch as a whole will not do."""
    if batch.nbytes <= MAX_ROW_BYTES:
        rows = _decoded(batch)
        if rows is not None:
            yield from rows
            return
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        if row.nbytes > MAX_ROW_BYTES:
            yield "too_long", f"a row of {row.nbytes} bytes; at most {MAX_ROW_BYTES} are read"
            continue
        alone = _decoded(row)
        yield ("bad_text", "a column holds bytes that are not UTF-8") if alone is None else alone[0]


def _decoded(batch: pa.RecordBatch) -> list[Record] | None:
    """The rows of `batch`; None if some text in it is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return None


def _refuse_extensions(path: Path, schema: pa.Schema) -> None:
    def inside(kind: pa.DataType) -> Iterator[pa.DataType]:
        yield kind
        for place in range(kind.num_fields):
            yield from inside(kind.field(place).type)

    for field in schema:
        for kind in inside(field.type):
            if isinstance(kind, pa.BaseExtensionType):
                raise InputError(
                    f"{str(path)!r}: column {field.name!r} has the extension type {kind}; "
                    "only Arrow's own types are read, store it as text"
                )
