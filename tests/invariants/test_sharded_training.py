"""FSDP2 on two CPU processes, of a plain base and of one in NF4: the same losses and adapter as one whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pipeline_rows import filtered_rows, save
from safetensors.torch import load_file

from agentflow.rendering import PromptConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SUMMARY, SupervisedJob, TrainingSummary
from agentflow.training.supervised import train_supervised

pytestmark = pytest.mark.faults
HERE = Path(__file__).parent


def job_for(base: Path, rows: Path, out: Path, accumulation: int, four_bit: bool = False, **optimiser) -> SupervisedJob:
    settings = SupervisedSettings(
        lora=LoraSettings(rank=8, dropout=0.0),
        optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=4, accumulation=accumulation, **optimiser),
        max_steps=4,
        four_bit=four_bit,
        checkpoint_steps=2,
    )
    workers = 2 if optimiser else 1
    return SupervisedJob(
        settings=settings, prompt=PromptConfig(system="T"), rows=rows, base=base, out=out, workers=workers
    )


def torchrun(job: SupervisedJob, *program: str) -> subprocess.CompletedProcess[str]:
    """Two processes of `program`; the job lies in its folder as job.json."""
    job.out.mkdir(exist_ok=True)
    (job.out / "job.json").write_text(job.model_dump_json())
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "support")))
    return subprocess.run(
        [*runner, *program],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def losses(summary: TrainingSummary) -> list[float]:
    return [entry["loss"] for entry in summary.log if "loss" in entry]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs: FSDP2 needs no help there")
@pytest.mark.parametrize("four_bit", [False, True])
def test_two_sharded_processes_train_as_one_whole_also_from_a_checkpoint(tiny_base, tmp_path, four_bit):
    rows = save(filtered_rows(24), tmp_path / "rows")
    alone = job_for(tiny_base, rows, tmp_path / "alone", 2, four_bit)
    expected = train_supervised(alone)
    job = job_for(tiny_base, rows, tmp_path / "both", 1, four_bit, sharding="fsdp2")
    driver, file = str(HERE / "sharded_driver.py"), str(job.out / "job.json")
    stopped = torchrun(job, driver, file, "3")
    assert stopped.returncode != 0 and "Stopped" in stopped.stderr, stopped.stderr[-3000:]
    checkpoint = job.out / "trainer" / "checkpoint-2"
    assert (checkpoint / "checkpoint.json").is_file() and (checkpoint / "pytorch_model_fsdp.bin").is_file()
    done = torchrun(job, driver, file, "-1")
    assert done.returncode == 0, done.stderr[-3000:]
    summary = TrainingSummary.model_validate_json((job.out / SUMMARY).read_text())
    assert losses(summary) == pytest.approx(losses(expected), abs=1e-4)
    assert summary.trainable_parameters == expected.trainable_parameters
    whole, sharded = (load_file(j.adapter_out / "adapter_model.safetensors") for j in (alone, job))
    assert whole.keys() == sharded.keys()
    for name in whole:
        assert torch.allclose(whole[name], sharded[name], atol=1e-4), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_sharding_on_cpus_is_refused_since_it_would_silently_not_happen(tiny_base, tmp_path):
    rows = save(filtered_rows(8), tmp_path / "rows")
    job = job_for(tiny_base, rows, tmp_path / "both", 1, sharding="fsdp2")
    refused = torchrun(job, "-m", "agentflow.training", str(job.out / "job.json"))
    assert refused.returncode != 0
    assert "error: optimiser.sharding 'fsdp2' has no effect here: models are split over GPUs" in refused.stderr
