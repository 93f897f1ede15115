"""How a global batch is cut up does not change a training: into accumulated parts, or over workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline_rows import filtered_rows, save
from ray.train import UserCallback

from agentflow.access import Access
from agentflow.rendering import PromptConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SUMMARY, SupervisedJob, TrainingSummary
from agentflow.training.supervised import train_supervised

HERE = Path(__file__).parent
STEPS = 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return save(filtered_rows(24), tmp_path_factory.mktemp("rows") / "rows")


def job_for(
    base: Path, rows: Path, out: Path, batch: int, accumulation: int, workers: int = 1, **more: Any
) -> SupervisedJob:
    """Dropout 0 and a fixed order of rows: what is left is arithmetic."""
    settings = SupervisedSettings(
        lora=LoraSettings(rank=8, dropout=0.0),
        optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=batch, accumulation=accumulation),
        max_steps=STEPS,
        **more,
    )
    return SupervisedJob(
        settings=settings, prompt=PromptConfig(system="T"), rows=rows, base=base, out=out, workers=workers
    )


def losses(summary: TrainingSummary) -> list[float]:
    return [entry["loss"] for entry in summary.log if "loss" in entry]


def test_a_batch_of_one_accumulated_eight_times_is_a_batch_of_eight(tiny_base, rows, tmp_path):
    """The rows differ in length, so a mean of the parts' means would be another number than the mean over tokens."""
    whole = losses(train_supervised(job_for(tiny_base, rows, tmp_path / "whole", 8, 1)))
    parts = losses(train_supervised(job_for(tiny_base, rows, tmp_path / "parts", 1, 8)))
    assert len(whole) == STEPS
    assert parts == pytest.approx(whole, abs=1e-4)


@pytest.mark.faults
def test_two_processes_under_torchrun_train_as_one_on_the_same_global_batch(tiny_base, rows, tmp_path):
    alone = losses(train_supervised(job_for(tiny_base, rows, tmp_path / "alone", 4, 2)))
    job = job_for(tiny_base, rows, tmp_path / "both", 4, 1, workers=2)
    job.out.mkdir()
    (job.out / "job.json").write_text(job.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = [*torchrun, str(HERE / "training_driver.py"), str(job.out / "job.json"), "-1"]
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "support")))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(program, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    both = losses(TrainingSummary.model_validate_json((job.out / SUMMARY).read_text()))
    assert both == pytest.approx(alone, abs=1e-4)


@pytest.mark.faults
def test_two_workers_train_as_one_on_the_same_global_batch(tiny_base, rows, tmp_path, ray_up, monkeypatch):
    from tasks import fitting
    from tasks.context import Resources, RunContext

    make, heard = fitting._trainer, tmp_path / "heard.jsonl"

    class Listener(UserCallback):
        """Runs in Ray Train's controller, a process of its own, which could not import this module."""

        def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
            with heard.open("a") as out:
                out.write(json.dumps(metrics) + "\n")

    def listened_to(*arguments: Any) -> Any:
        trainer = make(*arguments)
        trainer.run_config.callbacks = [Listener()]
        return trainer

    monkeypatch.setattr(fitting, "_trainer", listened_to)
    access = Access(ledger_url=f"sqlite:///{tmp_path}/l.db", run_id="run")
    where = RunContext(root=tmp_path, recipe="r", access=access, training=Resources(cpus=1, workers=2))
    alone = losses(train_supervised(job_for(tiny_base, rows, tmp_path / "alone", 4, 2)))
    job = job_for(tiny_base, rows, tmp_path / "both", 4, 1, workers=2, checkpoint_steps=2)
    job.out.mkdir()
    both = losses(fitting.fit(job, "sft", where))
    assert both == pytest.approx(alone, abs=1e-4)
    # Ray hears of every sealed checkpoint (after step 2, and the last) from both workers.
    reports = [json.loads(line) for line in heard.read_text().splitlines()]
    assert [len(of_workers) for of_workers in reports] == [2, 2]
    first, last = (of_workers[0] for of_workers in reports)
    assert (first["step"], first["of"], last["step"]) == (2, STEPS, STEPS)
    assert first["loss"] == pytest.approx(both[1])
    assert Path(last["checkpoint"]).name == "checkpoint-3"
