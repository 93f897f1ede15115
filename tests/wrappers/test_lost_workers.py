"""Whether a training's end was a death (it goes on from its checkpoint) or an error of its own (it ends)."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from tasks import fitting

GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:10140. Check its logs"
STORE = "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"


def ended_by(*failures: Exception) -> WorkerGroupError:
    """Ray Train's error of a group of which only these ranks' ends were known."""
    return WorkerGroupError("Training failed due to worker errors", dict(enumerate(failures)))


def said(error: Exception) -> UserExceptionWithTraceback:
    return UserExceptionWithTraceback(error, traceback_str=f"Traceback ...\n{type(error).__name__}: {error}")


@pytest.mark.parametrize("text", [GLOO, STORE])
def test_a_worker_whose_peer_is_gone_has_not_failed_by_itself(ray_up: None, text: str) -> None:
    """The survivor's error may be all that Ray Train knows: it then polled before it heard of the death."""
    assert fitting._lost(ended_by(said(RuntimeError(text))), set(), workers=2)


def test_a_lone_worker_has_no_peer_that_could_be_gone(ray_up: None) -> None:
    assert not fitting._lost(ended_by(said(OSError("Connection reset by peer"))), set(), workers=1)


def test_a_workers_own_error_is_no_death_also_where_it_took_the_others_with_it(ray_up: None) -> None:
    own = said(ValueError("the loss is NaN at step 3"))
    assert not fitting._lost(ended_by(own), set(), workers=2)
    assert not fitting._lost(ended_by(said(RuntimeError(GLOO)), own), set(), workers=2)


def test_a_dead_worker_is_lost(ray_up: None) -> None:
    assert fitting._lost(ended_by(ActorDiedError()), set(), workers=1)
