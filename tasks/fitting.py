"""One training under Ray Train, and what happens when its workers or their nodes die.

In: a job as JSON. Out: the summary its rank 0 wrote. A training whose worker died goes on from its last checkpoint, as
soon as the cluster has room for all workers again; a worker's own error ends it at once. That is why Ray Train itself
retries nothing here: its `max_failures` counts both alike.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

from prefect.logging import get_run_logger

from agentflow.errors import WorkersLost
from agentflow.training.jobs import SUMMARY, PolicyJob, SupervisedJob, TrainingSummary
from tasks.context import Resources, RunContext, TrainingStage
from tasks.pool import no_room, own_error, squeeze
from tasks.training_worker import train_fn
from tasks.worker_logs import with_last_lines

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
OTHER_ERROR_S, PEER_GONE_S = 10.0, 30.0
# A surviving worker says "connection closed" at once; that its peer's node is dead is known later: Ray's head misses
# five beats of 3 s first where the node could not say good-bye. Of other errors less is believed.
PEER_GONE = re.compile(r"connection (was likely )?(closed|reset)|broken pipe|remote process exited", re.IGNORECASE)
# What gloo, NCCL and torch's store say to the workers that are left. A peer that fails by itself keeps its connections
# until all workers are ended.


def fit(job: SupervisedJob | PolicyJob, name: TrainingStage, where: RunContext) -> TrainingSummary:
    """Run `job` to its end; returns its summary.

    Raises the worker's own error (if it is one of ours) or Ray's TrainingFailedError, and WorkersLost if workers died
    more than `restarts` times or the cluster had no room for all of them within `wait_s`.
    """
    from ray.train import ControllerError, WorkerGroupError

    resources = where.training_of(name)
    for attempt in range(1, resources.restarts + 2):
        dead = _dead()
        try:
            with _start_timeout(resources.wait_s):
                _trainer(job, name, resources, where).fit()
        except WorkerGroupError as error:
            own = own_error(*_causes(error))
            if own is not None:  # nothing gets better by trying it again
                raise own from error
            if not _lost(error, dead, resources.workers):
                raise
            said = with_last_lines(f"{name}: a training worker died ({squeeze(str(error))})", str(error))
            if attempt > resources.restarts:
                raise WorkersLost(
                    f"{said}. That is {attempt} times; look at its memory and at the node, then run again or press "
                    "Retry: it goes on from its last checkpoint"
                ) from error
            get_run_logger().warning("%s. It goes on from its last checkpoint when there is room again", said)
        except ControllerError as error:
            if "StartupTimeout" in type(error.controller_failure).__name__:
                raise WorkersLost(no_room(name, resources)) from error
            raise
        else:
            return TrainingSummary.model_validate_json((job.out / SUMMARY).read_text())
    raise AssertionError("unreachable")


def _trainer(job: SupervisedJob | PolicyJob, name: str, resources: Resources, where: RunContext) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = resources.gpus > 0
    return TorchTrainer(
        train_fn,
        train_loop_config={
            "job": job.model_dump_json(),
            "secrets": where.secrets,
            "device": resources.device,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        # The same name and storage path would resume another attempt by itself: every attempt has its own.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str((where.folder / "ray_train").absolute()),
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )


@contextlib.contextmanager
def _start_timeout(seconds: float) -> Iterator[None]:
    """How long a worker group may wait for room; Ray Train reads it from the environment, and else tries for ever."""
    before = os.environ.get(START_TIMEOUT)
    os.environ[START_TIMEOUT] = str(seconds)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(START_TIMEOUT, None)
        else:
            os.environ[START_TIMEOUT] = before


def _dead() -> set[str]:
    """Nodes that Ray's head has known and lost."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _causes(error: Any) -> Iterator[BaseException | None]:
    """All that may have ended a worker of a group: Ray Train wraps it in one of two ways, or not at all."""
    for failure in error.worker_failures.values():
        yield from (failure, getattr(failure, "_base_exc", None), failure.__cause__)


def _lost(error: Any, dead: set[str], workers: int) -> bool:
    """Whether a worker or its node died, rather than failed by itself; `dead`: nodes lost before this attempt.

    A worker whose peer is gone is told by what it says, because Ray may hear of that before it hears of the death.
    Then, and where other nodes are, this waits until a death is known: the next attempt must not count on that node.
    """
    import ray
    from ray.exceptions import RayError

    failures = [getattr(failure, "health_check_failure", failure) for failure in error.worker_failures.values()]
    if any(isinstance(failure, RayError) for failure in failures):
        return True
    # Of all that failed: a worker whose own error ended the others is no death.
    alone = workers > 1 and all(PEER_GONE.search(str(getattr(each, "_base_exc", each))) for each in failures)
    deadline = time.monotonic() + (PEER_GONE_S if alone else OTHER_ERROR_S)
    while not (gone := _dead() - dead):
        nodes = sum(node["Alive"] for node in ray.nodes()) + len(gone)
        if nodes < 2 or time.monotonic() >= deadline:
            return alone
        time.sleep(0.2)
    return True
