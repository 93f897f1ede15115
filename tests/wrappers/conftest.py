"""Deployed runs share one `agentflow up`; tests on what Prefect knows of runs share a flow."""

from __future__ import annotations

import pytest
from prefect import Flow, flow
from up_fixtures import machine, stand_ins

__all__ = ["machine", "stand_ins"]


@pytest.fixture(scope="session")
def a_night() -> Flow[[], None]:
    """A flow of which only the runs are looked at."""

    @flow(name="a-night")
    def night() -> None:
        """Never called."""

    return night
