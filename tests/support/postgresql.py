"""A PostgreSQL server of a test's own, by Debian's programs; without them the test is skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import postgresql as servers


@contextmanager
def postgresql(*databases: str) -> Iterator[servers.Server]:
    """A server with `databases` beside the database postgres."""
    try:
        with servers.postgresql(*databases) as server:
            yield server
    except servers.PostgresMissing as missing:
        pytest.skip(str(missing))
