"""A training outside the pipeline, from a job's file."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pipeline_rows import filtered_rows, save
from policy_jobs import policy_job, rollouts_of

from agentflow.rendering import PromptConfig
from agentflow.training.__main__ import main
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SUMMARY, SupervisedJob, TrainingSummary
from agentflow.training.policy_options import CycleSettings


def test_a_job_in_a_file_is_trained(tiny_base, tmp_path):
    settings = SupervisedSettings(
        lora=LoraSettings(rank=4), optimiser=OptimiserSettings(batch_size=4, accumulation=1), max_steps=1
    )
    rows = save(filtered_rows(4), tmp_path / "rows")
    job = SupervisedJob(
        settings=settings, prompt=PromptConfig(system="T"), rows=rows, base=tiny_base, out=tmp_path / "out"
    )
    (tmp_path / "job.json").write_text(job.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "agentflow.training", str(tmp_path / "job.json")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert TrainingSummary.model_validate_json((job.out / SUMMARY).read_text()).steps == 1
    assert (job.adapter_out / "adapter_model.safetensors").is_file()


def test_a_policy_job_in_a_file_is_trained_with_its_cycles(taught, tmp_path, capsys):
    settings = SupervisedSettings(optimiser=OptimiserSettings(batch_size=2, accumulation=1), max_steps=1)
    job = policy_job(taught, tmp_path / "out", cycles=CycleSettings(n=1, settings=settings))
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert main([str(tmp_path / "job.json")]) == 0, capsys.readouterr().err
    summary = TrainingSummary.model_validate_json((job.out / SUMMARY).read_text())
    assert summary.steps == 2 and len(summary.extra["fine_tunings"]) == 1
    assert {row["step"] for row in rollouts_of(job)} == {0, 1}
    assert (job.adapter_out / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "policy", "steps": 3}', "not json"])
def test_a_file_that_holds_no_job_is_one_message(content, tmp_path, capsys):
    (tmp_path / "job.json").write_text(content)
    assert main([str(tmp_path / "job.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "job.json' holds no training job" in said and "Traceback" not in said


def test_a_missing_file_and_a_missing_argument_are_said(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 2 and "No such file" in capsys.readouterr().err
    assert main([]) == 2 and "give one file" in capsys.readouterr().err
