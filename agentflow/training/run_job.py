"""A job's training, the same way from a shell, under torchrun and under Ray.

In: a job as JSON. Out: its filled folder. torch is loaded only once the job is read: a wrong one is answered at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentflow.training.jobs import PolicyJob, SupervisedJob, TrainingSummary

if TYPE_CHECKING:
    from transformers import TrainerCallback


def read_job(text: str) -> SupervisedJob | PolicyJob:
    """The job in `text`. Raises ValueError (pydantic's, or that of JSON) if it is none."""
    content = json.loads(text)
    kind = content.get("kind") if isinstance(content, dict) else None
    return (PolicyJob if kind == "policy" else SupervisedJob).model_validate_json(text)


def run_job(job: SupervisedJob | PolicyJob, callbacks: Sequence[TrainerCallback] = ()) -> TrainingSummary:
    """Train `job`, a policy with all its cycles; rank 0 fills `job.out`. Raises as the two trainings do."""
    if isinstance(job, SupervisedJob):
        from agentflow.training.supervised import train_supervised

        return train_supervised(job, callbacks)
    from agentflow.training.cycles import train_in_cycles

    return train_in_cycles(job, callbacks)
