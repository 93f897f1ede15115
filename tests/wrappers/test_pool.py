"""A pool of real Ray actors whose workers die."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from agentflow.errors import BudgetExceeded, WorkersLost
from tasks.context import Resources
from tasks.pool import ActorPool

log = logging.getLogger(__name__)


@ray.remote(max_restarts=0, max_task_retries=0)
class Doubler:
    def __init__(self, fail: str = "") -> None:
        if fail:
            raise ValueError(fail)

    def double(self, number: int, once: str | None = None, always: bool = False) -> int:
        """Twice the number; with `once` (a path not there yet) or `always` the worker is killed instead."""
        if always or (once is not None and not Path(once).exists()):
            if once:
                Path(once).touch()
            print("the last words of a worker", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number

    def refuse(self, usd: float) -> None:
        raise BudgetExceeded(f"the budget of {usd} USD is used up")


@ray.remote
def prefect_server() -> str | None:
    """The server that a task run in a worker talks to."""
    return os.environ.get("PREFECT_API_URL")


def pool(**changes: Any) -> ActorPool:
    resources = Resources(**{"cpus": 1, "workers": 2, "restarts": 1, **changes})
    return ActorPool("doubling", lambda: Doubler.options(num_cpus=resources.cpus).remote(), resources, log)


def test_a_worker_knows_the_server_of_its_run(ray_up: None, prefect_api: str) -> None:
    """Without it every worker would start a server of its own, all on one SQLite file."""
    assert ray.get(prefect_server.remote()) == prefect_api


def test_a_dead_worker_costs_its_item_only(ray_up: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    died = str(tmp_path / "died")
    with pool() as doublers, caplog.at_level(logging.WARNING):
        results = dict(doublers.map(range(6), lambda actor, n: actor.double.remote(n, died if n == 3 else None)))
        assert results == {n: 2 * n for n in range(6)}
        assert doublers.one(lambda actor: actor.double.remote(21)) == 42
    (record,) = caplog.records
    assert "doubling: a worker died" in record.getMessage() and "handed out again" in record.getMessage()


def test_work_that_kills_every_worker_ends_with_its_last_words(ray_up: None) -> None:
    with pool() as doublers, pytest.raises(WorkersLost) as raised:
        list(doublers.map([1], lambda actor, n: actor.double.remote(n, None, True)))
    assert "2 times for the same work" in str(raised.value) and "the last words of a worker" in str(raised.value)


def test_a_pool_without_room_waits_and_says_what_it_asked_for(ray_up: None) -> None:
    with pool(cpus=64, wait_s=1) as doublers, pytest.raises(WorkersLost) as raised:
        doublers.one(lambda actor: actor.double.remote(1))
    assert "no room for 2 workers with 64 CPU and 0 GPU each within 1 s; nodes alive: 1 (2 CPU" in str(raised.value)


def test_a_worker_that_cannot_start_is_not_tried_again(ray_up: None) -> None:
    broken = ActorPool("doubling", lambda: Doubler.remote("no such model"), Resources(cpus=1), log)
    with broken as doublers, pytest.raises(WorkersLost, match="could not start: ValueError: no such model"):
        doublers.one(lambda actor: actor.double.remote(1))


def test_what_a_worker_raised_of_ours_is_one_message_and_no_traceback_of_it(ray_up: None) -> None:
    with pool() as doublers, pytest.raises(BudgetExceeded) as raised:
        doublers.one(lambda actor: actor.refuse.remote(5.0))
    assert str(raised.value) == "the budget of 5.0 USD is used up"


def test_a_defect_in_a_worker_keeps_its_traceback(ray_up: None) -> None:
    with pool() as doublers, pytest.raises(TypeError, match=r"ray::Doubler\.double"):
        doublers.one(lambda actor: actor.double.remote(None))
