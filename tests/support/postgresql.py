"""A PostgreSQL server of a test's own, by Debian's programs; without them the test is skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import postgresql as servers


@contextmanager
def postgresql(*databases: str) -> Iterator[str]:
    """`agentflow@HOST:PORT`, whose user needs no password, with `databases` beside the database postgres."""
    try:
        with servers.postgresql(*databases) as place:
            yield place
    except servers.PostgresMissing as missing:
        pytest.skip(str(missing))
