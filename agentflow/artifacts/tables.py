"""Rows to Arrow and back: declared columns only, unique ids, digests that do not depend on order or file layout.

In: rows as dictionaries and the Arrow schema of a stage boundary. Out: a `pa.Table` sorted by `id`, and its digest.
A row that Arrow or JSON cannot carry (lone surrogate, 2**63, NaN) is named, and `split_bad_rows` sets it apart from
the good ones. Everything goes through chunks of 1,000 rows: linear in rows, one copy at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from agentflow import schemas
from agentflow.arrow_rows import ArrowRows
from agentflow.errors import StoreError
from agentflow.records import Outcomes, Reject, canonical_json

CHUNK_ROWS = 1000
MAX_REJECT_CHARACTERS = 16_000_000
# A rejected row larger than this is kept by its first characters only (promise P7).
_UNSTORABLE = (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError, RecursionError)
# What pyarrow and json raise for values that cannot be stored; UnicodeEncodeError is a ValueError.

Row = dict[str, Any]


def schema_hash(schema: pa.Schema) -> str:
    """Hex sha256 of names and types in order; metadata (such as datasets' own) does not count."""
    return hashlib.sha256(canonical_json([[field.name, str(field.type)] for field in schema]).encode()).hexdigest()


def build_table(stage: str, rows: Sequence[Row], schema: pa.Schema) -> tuple[pa.Table, str]:
    """`rows` as a table with exactly `schema`, sorted by `id`, and its digest.

    Raises SchemaMismatch if a row has other columns, StoreError naming the row for an id that is missing or stands
    twice and for a value that cannot be stored (callers set those apart earlier with `split_bad_rows`).
    """
    names = frozenset(schema.names)
    ids: list[bytes] = []
    for row in rows:
        _check_row(stage, row, schema, names)
        ids.append(row["id"].encode("utf-8", "surrogatepass"))
    # Places and not rows are sorted: `rows` may decode each only when asked for it (`arrow_rows`).
    ordered = sorted(range(len(ids)), key=ids.__getitem__)
    for one, other in pairwise(ordered):
        if ids[one] == ids[other]:
            raise StoreError(f"stage {stage!r}: two rows have the id {rows[one]['id']!r}; every row needs its own")
    if isinstance(rows, ArrowRows) and rows.schema.equals(schema) and ordered == list(range(len(ids))):
        batches = rows.batches()  # in order already, as what is made from an artifact is: no copy is needed
    else:
        chunks = (ordered[start : start + CHUNK_ROWS] for start in range(0, len(ordered), CHUNK_ROWS))
        batches = [_batch(stage, [rows[place] for place in chunk], schema) for chunk in chunks]
    digest = _Digest(schema, in_order=True)
    for batch in batches:
        try:
            digest.add(batch.to_pylist())
        except _UNSTORABLE as error:
            raise _unstorable(stage, batch.to_pylist(), schema, error) from error
    return pa.Table.from_batches(batches, schema=schema), digest.hexdigest()


def _batch(stage: str, rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pylist(rows, schema=schema)
    except _UNSTORABLE as error:
        raise _unstorable(stage, rows, schema, error) from error


def _unstorable(stage: str, rows: list[Row], schema: pa.Schema, error: Exception) -> StoreError:
    _, rejects = split_bad_rows(rows, schema)
    named = f"row {rejects[0].key!r}: {rejects[0].detail}" if rejects else str(error)
    return StoreError(f"stage {stage!r}: cannot store {named}; quarantine it before the commit")


def split_bad_rows(rows: Sequence[Row], schema: pa.Schema) -> tuple[list[Row], list[Reject]]:
    """`rows` that can be stored in `schema`, in their order, and a quarantined Reject "unstorable" for each other one.

    Rows are tried in chunks; only a chunk that fails is tried row by row. The Reject's key is the row's id; a stage
    whose ids are not its input keys has to map them back.
    """
    good: list[Row] = []
    rejects: list[Reject] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = list(rows[start : start + CHUNK_ROWS])
        if _why_unstorable(chunk, schema) is None:
            good += chunk
            continue
        for row in chunk:
            why = _why_unstorable([row], schema)
            if why is None:
                good.append(row)
            else:
                rejects.append(Reject(str(row.get("id")), "quarantined", "unstorable", why, row))
    return good, rejects


def table_digest(table: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema) -> str:
    """Hex sha256 of the schema hash and of the canonical JSON of all rows in order of their ids.

    Independent of row order, chunks, files, metadata and of when a stored answer was fetched (`as_of` in segments).
    Needs about 150 bytes of memory a row.
    """
    digest = _Digest(schema)
    batches = table.to_batches(max_chunksize=CHUNK_ROWS) if isinstance(table, pa.Table) else table
    for batch in batches:
        digest.add(batch.to_pylist())
    return digest.hexdigest()


def iterate_rows(table: pa.Table) -> Iterator[Row]:
    """The rows of `table` one by one, converted in chunks."""
    for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
        yield from batch.to_pylist()


def row_hash(row: Row) -> bytes:
    """The sha256 of a row's canonical JSON. Raises ValueError for NaN, infinity and lone surrogates."""
    return hashlib.sha256(canonical_json(row).encode()).digest()


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as a table of `schemas.REJECTS` in order of their keys. Never fails: odd values are escaped or cut."""
    rows = [
        {
            "key": _plain(reject.key),
            "status": reject.status,
            "reason": _plain(reject.reason),
            "detail": _plain(reject.detail),
            "row": _json_of_anything(reject.row),
        }
        for reject in sorted(rejects, key=lambda reject: str(reject.key))
    ]
    chunks = (rows[i : i + CHUNK_ROWS] for i in range(0, len(rows), CHUNK_ROWS))
    batches = [pa.RecordBatch.from_pylist(chunk, schema=schemas.REJECTS) for chunk in chunks]
    return pa.Table.from_batches(batches, schema=schemas.REJECTS)


def outcomes_of(rows: pa.Table, rejects: pa.Table, keys_in: int, keys_out: int) -> Outcomes:
    """The inverse of `build_table` and `rejects_table`."""
    return Outcomes(
        rows=list(iterate_rows(rows)),
        rejects=[Reject(**{**row, "row": json.loads(row["row"])}) for row in iterate_rows(rejects)],
        keys_in=keys_in,
        keys_out=keys_out,
    )


class _Digest:
    """Collects (id, row hash) and hashes them in id order: no sorted copy of the table is needed.

    `in_order`: rows come in that order already, so nothing is collected.
    """

    def __init__(self, schema: pa.Schema, *, in_order: bool = False) -> None:
        self._digest = hashlib.sha256(schema_hash(schema).encode())
        self._in_order = in_order
        self._has_segments = "segments" in schema.names and schema.field("segments").type == pa.list_(schemas.SEGMENT)
        self._rows: list[tuple[bytes, bytes]] = []

    def add(self, rows: Iterable[Row]) -> None:
        hashed = ((row["id"].encode(), row_hash(self._timeless(row))) for row in rows)
        if not self._in_order:
            self._rows += hashed
            return
        for _, one in hashed:
            self._digest.update(one)

    def _timeless(self, row: Row) -> Row:
        """`row` without the instants at which its calls were answered: asked an hour later, the content is the same."""
        if not self._has_segments or not row["segments"]:
            return row
        return {**row, "segments": [segment and {**segment, "as_of": None} for segment in row["segments"]]}

    def hexdigest(self) -> str:
        digest = self._digest.copy()
        for _, one in sorted(self._rows):
            digest.update(one)
        return digest.hexdigest()


def _check_row(stage: str, row: Row, schema: pa.Schema, names: frozenset[str]) -> None:
    if row.keys() != names:
        known = [schema.field(name) for name in schema.names if name in row]
        unknown = [pa.field(str(name), pa.null()) for name in row if name not in schema.names]
        schemas.check_columns(stage, pa.schema(known + unknown), schema)
    if not isinstance(row["id"], str) or not row["id"]:
        raise StoreError(f"stage {stage!r}: a row has the id {row['id']!r}; it must be a non-empty string")


def _why_unstorable(rows: list[Row], schema: pa.Schema) -> str | None:
    """None if all `rows` can be stored, else the cause."""
    names = frozenset(schema.names)
    try:
        for row in rows:
            if row.keys() != names:
                return f"columns {sorted(map(str, row))} instead of {sorted(schema.names)}"
            if not isinstance(row["id"], str) or not row["id"]:
                return f"id {row['id']!r} is not a non-empty string"
        for row in pa.RecordBatch.from_pylist(rows, schema=schema).to_pylist():
            row_hash(row)
    except _UNSTORABLE as error:
        return f"{type(error).__name__}: {error}"[:1000]
    return None


def _plain(text: object) -> str:
    """`text` as storable UTF-8; lone surrogates become their escaped form."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _json_of_anything(row: Row) -> str:
    """`row` as JSON in ASCII, whatever stands in it; a row that has no JSON form is kept as the reason why."""
    try:
        text = json.dumps(row, default=repr, sort_keys=True)
    except (ValueError, TypeError, RecursionError) as error:
        text = json.dumps({"_unserialisable": f"{type(error).__name__}: {error}"[:1000]})
    if len(text) > MAX_REJECT_CHARACTERS:
        text = json.dumps({"_cut": text[:1000], "_characters": len(text)})
    return text
