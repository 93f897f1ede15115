"""Rows kept as Arrow: a sequence of dictionaries of which only a chunk exists at a time.

In: rows one by one. Out: the same rows in the same order, or some of them as a view that copies nothing. A million
question rows are about half a GB this way and three times that as dictionaries.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CHUNK_ROWS = 1000
Row = dict[str, Any]
Item = TypeVar("Item")


class ArrowRows(Sequence[Row]):
    """Rows with the columns of `schema`; only `append` changes it."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._pending: list[Row] = []
        # Fewer than CHUNK_ROWS rows that are no batch yet.

    def append(self, row: Row) -> None:
        """Add one row. Raises pa.ArrowException, at the latest a chunk later, if Arrow cannot carry it."""
        self._pending.append(row)
        if len(self._pending) == CHUNK_ROWS:
            self._batches.append(pa.RecordBatch.from_pylist(self._pending, schema=self.schema))
            self._pending = []

    def __len__(self) -> int:
        return len(self._batches) * CHUNK_ROWS + len(self._pending)

    def __iter__(self) -> Iterator[Row]:
        for batch in self._batches:
            yield from batch.to_pylist()
        yield from self._pending

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return self.at(np.arange(*index.indices(len(self))))
        number, place = divmod(range(len(self))[index], CHUNK_ROWS)
        if number == len(self._batches):
            return self._pending[place]
        row: Row = self._batches[number].slice(place, 1).to_pylist()[0]
        return row

    def at(self, places: npt.NDArray[np.int64]) -> list[Row]:
        """The rows at `places` [number of places]; cheap where neighbours stand in one chunk."""
        numbers = places // CHUNK_ROWS
        found: list[Row] = []
        for part in np.split(places, np.flatnonzero(np.diff(numbers)) + 1) if len(places) else ():
            number, inside = int(part[0]) // CHUNK_ROWS, part % CHUNK_ROWS
            if number == len(self._batches):
                found += [self._pending[place] for place in inside.tolist()]
            else:
                found += self._batches[number].take(pa.array(inside)).to_pylist()
        return found

    def batches(self) -> list[pa.RecordBatch]:
        """All rows as they are kept, not copied."""
        rest = [pa.RecordBatch.from_pylist(self._pending, schema=self.schema)] if self._pending else []
        return [*self._batches, *rest]

    def value(self, name: str, index: int) -> Any:
        """One column of one row, without decoding the others."""
        number, place = divmod(index, CHUNK_ROWS)
        return (
            self._pending[place][name] if number == len(self._batches) else self._batches[number][name][place].as_py()
        )

    def column(self, name: str) -> Column:
        """The values of one column, decoded when asked for."""
        return Column(self, name)

    def select(self, places: npt.NDArray[np.int64]) -> Selection:
        """The rows at `places`, not copied."""
        return Selection(self, places)


class Uncopied(Sequence[Item]):
    """A view of other sequences, of which a slice is a list. A view says its length and the item at a place."""

    @abstractmethod
    def _at(self, place: int) -> Item:
        """The item at `place`, which is from 0 to below the length."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        return self._at(places) if isinstance(places, int) else [self._at(place) for place in places]


class Column(Uncopied[Any]):
    """One column of `ArrowRows`."""

    def __init__(self, rows: ArrowRows, name: str) -> None:
        self._rows = rows
        self._name = name

    def __len__(self) -> int:
        return len(self._rows)

    def _at(self, place: int) -> Any:
        return self._rows.value(self._name, place)


class Picked(Uncopied[Item]):
    """Some items of a sequence in an order of their own, not copied."""

    def __init__(self, items: Sequence[Item], places: npt.NDArray[np.int64]) -> None:
        self._items = items
        self.places = places
        # Index into `items` of each [number of items picked].

    def __len__(self) -> int:
        return len(self.places)

    def _at(self, place: int) -> Item:
        return self._items[int(self.places[place])]


class Selection(Picked[Row]):
    """Some rows of `ArrowRows`, decoded in chunks where they are asked for in order."""

    def __init__(self, rows: ArrowRows, places: npt.NDArray[np.int64]) -> None:
        super().__init__(rows, places)
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), CHUNK_ROWS):
            yield from self._rows.at(self.places[start : start + CHUNK_ROWS])


class Joined(Uncopied[Item]):
    """Sequences one after another, not copied."""

    def __init__(self, parts: Sequence[Sequence[Item]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _at(self, place: int) -> Item:
        number = bisect_right(self._ends, place)
        return self._parts[number][place - (self._ends[number - 1] if number else 0)]
