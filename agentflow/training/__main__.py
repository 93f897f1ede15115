"""`python -m agentflow.training JOB.json`: one training outside the pipeline, plain or in every process of torchrun.

In: a `SupervisedJob` or `PolicyJob` as JSON (training.jobs); under torchrun its `workers` is the number of processes.
Out: the job's `out` folder. Errors for users are one message, exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agentflow.errors import AgentflowError, InputError, UserError
from agentflow.training.run_job import read_job, run_job


def main(arguments: list[str]) -> int:
    """Train the job in the file that is named; returns the exit code."""
    try:
        if len(arguments) != 1:
            raise InputError(f"give one file that holds a job as JSON, not {arguments}")
        train(Path(arguments[0]))
    except AgentflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def train(file: Path) -> None:
    """Train the job in `file`. Raises InputError if it cannot be read or is no job."""
    try:
        job = read_job(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} holds no training job: {error}; see agentflow/training/jobs.py") from error
    run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
