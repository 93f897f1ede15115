"""Trains a job in a process of its own and kills it at the begin of a step: `training_driver.py JOB.json STEP`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stopping import StopAt

from agentflow.training.jobs import PolicyJob, SupervisedJob


def main() -> None:
    text, stop = Path(sys.argv[1]).read_text(), StopAt(int(sys.argv[2]), kill=True)
    if json.loads(text)["kind"] == "supervised":
        from agentflow.training.supervised import train_supervised

        train_supervised(SupervisedJob.model_validate_json(text), [stop])
    else:
        from agentflow.training.policy import train_policy

        train_policy(PolicyJob.model_validate_json(text), [stop])


if __name__ == "__main__":
    main()
