"""What every Ray Train worker runs.

Kept apart from what starts it: a worker imports this module when it unpickles the function, and Prefect and the clients
would cost each of them seconds before its first step.
"""

from __future__ import annotations

from typing import Any

from agentflow.clock import recording
from agentflow.training.run_job import read_job, run_job
from tasks.keys import load_secrets


def train_fn(config: dict[str, Any]) -> None:
    """Train one job (its JSON) as one of the workers of a group; rank 0 leaves the summary in the job's folder."""
    job = read_job(config["job"])
    load_secrets(config["secrets"])
    from agentflow.models.loading import check_device
    from tasks.training_reports import RayReportCallback

    check_device(config["device"])
    with recording(job.progress):
        run_job(job, [RayReportCallback()])
