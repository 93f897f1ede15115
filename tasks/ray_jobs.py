"""A run as a Ray Job: it lives on the cluster, so the death of whoever waits for it costs nothing.

Ray Train's controller belongs to its driver; a flow that drove a training of hours by itself would take it down with
itself. In: the command of a run and the fingerprint of what it makes. Out: when that is made. The job's id says what it
makes (`agentflow-<recipe>-<fingerprint>-<attempt>`), so a retry finds it:

    RUNNING, PENDING -> wait for it      SUCCEEDED -> nothing to do      FAILED, STOPPED -> the next attempt
"""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentflow.errors import ConfigError, JobFailed

POLL_S = 2.0
UNREACHABLE_S = 120.0
# How long the cluster's job server may be away before the waiting ends; the job itself goes on.
AGENT_S = 120.0
# How long a head that has just started may be without the agent that starts jobs.
STOP_S = 60.0
RUN_END_S = 20
# The run inside a job gets this long to write its report and state after it was told to stop; Ray's own is 3 s.
LAST_LINES = 12
AWAY = (ConnectionError, OSError, RuntimeError)
# What Ray's job client raises when the server is away or answers with an error.


@dataclass(frozen=True)
class Job:
    """One run to be made on the cluster."""

    recipe: str
    fingerprint: str
    # Of everything the run makes.
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    # For the job's driver; names and addresses, never a key: Ray shows it to everybody.

    def submission_id(self, attempt: int) -> str:
        """The id that means this work; `attempt` counts from 1."""
        return f"agentflow-{re.sub(r'[^A-Za-z0-9_-]', '-', self.recipe)}-{self.fingerprint}-{attempt}"


def open_jobs(address: str) -> Any:
    """A client of the job server at `address` (http://HOST:8265). Raises ConfigError if none answers."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"Ray job server {address!r}: give the dashboard's address, http://HOST:8265")
    try:
        return JobSubmissionClient(address)
    except (*AWAY, ValueError, AuthenticationError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"no Ray job server answers at {address!r}: {cause[:300]}; start the head with "
            "--include-dashboard=true, and give this process its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)"
        ) from error


def make_by_job(
    client: Any,
    job: Job,
    log: logging.Logger | Any,
    made: Callable[[], bool] = lambda: True,
    unwanted: Callable[[], bool] = lambda: True,
) -> str:
    """See that `job` has been done; returns the id that did it.

    `made` says whether the results are really there: a job that succeeded into a store that was emptied since is done
    again. Raises JobFailed with the job's last lines if it ends otherwise. Where the waiting is interrupted
    (KeyboardInterrupt), `unwanted` says whether that was meant for the job too; else it goes on, for the next who asks.
    """
    attempt, newest, status = _newest(client, job)
    if newest and status == "SUCCEEDED" and made():
        log.info("%s has succeeded before; nothing to do", newest)
        return newest
    submission_id = newest if newest and status in ("PENDING", "RUNNING") else job.submission_id(attempt + 1)
    try:
        if submission_id == newest:
            log.info("%s is %s already; waiting for it", newest, status)
        else:
            _submit(client, job, submission_id)
            log.info("submitted %s: %s", submission_id, shlex.join(job.command))
        status = _wait(client, submission_id, log)
    except KeyboardInterrupt:
        if unwanted():
            _stop(client, submission_id, log)
        else:
            log.warning("the waiting ends, %s goes on; a retry waits for it again", submission_id)
        raise
    if status != "SUCCEEDED":
        raise JobFailed(
            f"Ray job {submission_id} ended {status}; its last lines: {_last_lines(client, submission_id)}. Press "
            "Retry or run again: what it had finished is kept, and the next attempt goes on from there"
        )
    if not made():
        raise JobFailed(
            f"Ray job {submission_id} succeeded, but its results are not in this store: the cluster must write to "
            "the same folder that is given as --root here"
        )
    return submission_id


def _newest(client: Any, job: Job) -> tuple[int, str | None, str | None]:
    """Number, id and status of the last attempt; (0, None, None) if there is none."""
    try:
        known = {info.submission_id for info in client.list_jobs()}
        attempt = 0
        while job.submission_id(attempt + 1) in known:
            attempt += 1
        newest = job.submission_id(attempt)
        return (attempt, newest, _status(client, newest)) if attempt else (0, None, None)
    except AWAY as error:
        raise JobFailed(
            f"the Ray job server does not say which jobs it has ({error}); see that the head runs, then press Retry"
        ) from error


def _submit(client: Any, job: Job, submission_id: str) -> None:
    """Hand the job in, once. Raises JobFailed if the job server does not take it."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            client.submit_job(
                entrypoint=shlex.join(job.command),
                submission_id=submission_id,
                runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(RUN_END_S), **job.environment}},
                metadata={"recipe": job.recipe, "fingerprint": job.fingerprint},
            )
            return
        except AWAY as error:
            if "already exists" in str(error):
                return  # somebody else wants the same at the same moment: theirs is ours
            if "No available agent" in str(error) and time.monotonic() < deadline:
                continue  # the server itself waits 10 s before it says so
            raise JobFailed(
                f"Ray's job server did not take {submission_id}: {str(error).strip()}; see that the head node runs "
                "with its dashboard and agent (ray start --head --include-dashboard=true), then press Retry"
            ) from error


def _wait(client: Any, submission_id: str, log: logging.Logger | Any) -> str:
    """The job's last status. Raises JobFailed if the job server stays away: the job may still be running then."""
    away_since: float | None = None
    shown = None
    while True:
        try:
            status = _status(client, submission_id)
        except AWAY as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > UNREACHABLE_S:
                raise JobFailed(
                    f"the Ray job server has not answered for {UNREACHABLE_S:.0f} s ({error}); {submission_id} may "
                    "still be running, and a retry will wait for it again"
                ) from error
        else:
            away_since = None
            if status != shown:
                log.info("%s: %s", submission_id, status)
                shown = status
            if status in ("SUCCEEDED", "FAILED", "STOPPED"):
                return status
        time.sleep(POLL_S)


def _status(client: Any, submission_id: str) -> str:
    return str(client.get_job_status(submission_id).value)


def _stop(client: Any, submission_id: str, log: logging.Logger | Any) -> None:
    """Ask the job to end and wait until it has; what it had committed stays."""
    log.warning("stopping %s", submission_id)
    deadline = time.monotonic() + STOP_S
    try:
        client.stop_job(submission_id)
        while _status(client, submission_id) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
            time.sleep(0.5)
    except AWAY as error:  # what interrupted us matters more
        log.warning("%s may still be running (%s); see `ray job list`, `ray job stop`", submission_id, error)


def _last_lines(client: Any, submission_id: str) -> str:
    lines = [line.strip() for line in client.get_job_logs(submission_id).splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-2000:] or "none"
