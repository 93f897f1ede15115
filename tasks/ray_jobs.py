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
STOP_S = 60.0
LAST_LINES = 12


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
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"Ray job server {address!r}: give the dashboard's address, http://HOST:8265")
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"no Ray job server answers at {address!r}: {cause[:300]}; start the head with "
            "--include-dashboard=true, and give this process its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)"
        ) from error


def make_by_job(client: Any, job: Job, log: logging.Logger | Any, made: Callable[[], bool] = lambda: True) -> str:
    """See that `job` has been done; returns the id that did it.

    `made` says whether the results are really there: a job that succeeded into a store that was emptied since is done
    again. Raises JobFailed with the job's last lines if it ends otherwise. Whatever interrupts the waiting
    (KeyboardInterrupt: a cancelled flow, Ctrl-C) stops the job too.
    """
    attempt, submission_id = _newest(client, job)
    status = _status(client, submission_id) if submission_id else None
    if submission_id and status == "SUCCEEDED" and made():
        log.info("%s has succeeded before; nothing to do", submission_id)
        return submission_id
    if submission_id and status in ("PENDING", "RUNNING"):
        log.info("%s is %s already; waiting for it", submission_id, status)
    else:
        submission_id = _submit(client, job, attempt + 1)
        log.info("submitted %s: %s", submission_id, shlex.join(job.command))
    try:
        status = _wait(client, submission_id, log)
    except KeyboardInterrupt:
        log.warning("stopping %s", submission_id)
        _stop(client, submission_id)
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


def _newest(client: Any, job: Job) -> tuple[int, str | None]:
    """Number and id of the last attempt; (0, None) if there is none."""
    known = {info.submission_id for info in client.list_jobs()}
    attempt = 0
    while job.submission_id(attempt + 1) in known:
        attempt += 1
    return attempt, job.submission_id(attempt) if attempt else None


def _submit(client: Any, job: Job, attempt: int) -> str:
    submission_id = job.submission_id(attempt)
    try:
        client.submit_job(
            entrypoint=shlex.join(job.command),
            submission_id=submission_id,
            runtime_env={"env_vars": dict(job.environment)},
            metadata={"recipe": job.recipe, "fingerprint": job.fingerprint},
        )
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise JobFailed(
                f"Ray's job server did not take {submission_id}: {str(error).strip()}; see that the head node runs "
                "with its dashboard and agent (ray start --head --include-dashboard=true), then press Retry"
            ) from error
        # Somebody else wants the same at the same moment: theirs is ours.
    return submission_id


def _wait(client: Any, submission_id: str, log: logging.Logger | Any) -> str:
    """The job's last status. Raises JobFailed if the job server stays away: the job may still be running then."""
    away_since: float | None = None
    shown = None
    while True:
        try:
            status = _status(client, submission_id)
        except (ConnectionError, OSError, RuntimeError) as error:
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


def _stop(client: Any, submission_id: str) -> None:
    """Ask the job to end and wait until it has; what it had committed stays."""
    client.stop_job(submission_id)
    deadline = time.monotonic() + STOP_S
    while _status(client, submission_id) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.5)


def _last_lines(client: Any, submission_id: str) -> str:
    lines = [line.strip() for line in client.get_job_logs(submission_id).splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-2000:] or "none"
