"""Training 6 steps = 3 + kill -9 + 3, in fp32 on the CPU: same losses, same rollouts, nothing paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk
from pipeline_rows import filtered_rows, save
from stopping import StopAt, history
from taught_model import PROMPT, policy_job, teach_questions

from agentflow.access import Access
from agentflow.ledger import Ledger
from agentflow.models.settings import GenerationConfig
from agentflow.records import Segment, ToolCall, ToolResult
from agentflow.services.server import LocalService
from agentflow.stages.grpo import GrpoConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import PolicyJob, SupervisedJob
from agentflow.training.policy import train_policy
from agentflow.training.supervised import train_supervised

pytestmark = pytest.mark.faults
HERE = Path(__file__).parent
SEARCHING = [
    Segment("call", call=ToolCall("Search", {"query": "1+1"}), result=ToolResult("2")),
    Segment("text", text=" 2."),
]
OPTIMISER = OptimiserSettings(learning_rate=1e-3, schedule="cosine", weight_decay=0.1, batch_size=4, accumulation=2)


def train_and_kill(job: SupervisedJob | PolicyJob, step: int) -> None:
    """Train in a process of its own that SIGKILLs itself when it begins `step`."""
    job.out.mkdir(parents=True)
    (job.out / "job.json").write_text(job.model_dump_json())
    program = [sys.executable, str(HERE / "training_driver.py"), str(job.out / "job.json"), str(step)]
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "support")))
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def test_fine_tuning_goes_on_after_kill_9_with_the_same_losses(tiny_base, tmp_path):
    def job(name: str) -> SupervisedJob:
        settings = SupervisedSettings(
            lora=LoraSettings(rank=8, dropout=0.2), optimiser=OPTIMISER, max_steps=6, checkpoint_steps=1
        )
        return SupervisedJob(
            settings=settings, prompt=PROMPT, rows=tmp_path / "rows", base=tiny_base, out=tmp_path / name
        )

    save(filtered_rows(24), tmp_path / "rows")
    whole = train_supervised(job("whole"))
    train_and_kill(job("killed"), 3)
    resumed = train_supervised(job("killed"), [StopAt(2)])
    assert history(resumed, "loss", "grad_norm") == [
        pytest.approx(entry, abs=1e-5) for entry in history(whole, "loss", "grad_norm")
    ]
    assert len(history(whole, "loss")) == 6


def test_a_policy_goes_on_after_kill_9_with_the_same_rollouts_and_pays_no_call_twice(tiny_base, tmp_path):
    teach_questions(tiny_base, tmp_path, steps=60, reasoning=SEARCHING)

    def job(name: str, search_url: str) -> PolicyJob:
        config = GrpoConfig(
            prompt=PROMPT,
            tools=ToolsConfig(names=("Search",)),
            generation=GenerationConfig(temperature=1.1, max_new_tokens=24),
            steps=6,
            group_size=4,
            optimiser=OPTIMISER,
            checkpoint_steps=3,
        )
        access = Access(ledger_url=f"sqlite:///{tmp_path / name}.db", run_id="run", search_url=search_url)
        return policy_job(tmp_path, tmp_path / name, config, access)

    def paid(name: str) -> tuple[int, int]:
        with Ledger.open(f"sqlite:///{tmp_path / name}.db", run_id="run") as ledger:
            search = ledger.usage("run")["search"]
        return search["paid"], search["replayed"]

    with LocalService("search") as service:
        url = service.base_url
        whole = train_policy(job("whole", url))
        # Killed one step after the last checkpoint: that step is sampled again, and its calls come from the ledger.
        train_and_kill(job("killed", url), 4)
        resumed = train_policy(job("killed", url), [StopAt(2)])
    names = ("loss", "reward", "grad_norm")
    assert history(resumed, *names) == [pytest.approx(entry, abs=1e-5) for entry in history(whole, *names)]
    assert (
        load_from_disk(str(tmp_path / "killed/rollouts")).to_list()
        == load_from_disk(str(tmp_path / "whole/rollouts")).to_list()
    )
    (whole_paid, whole_replayed), (killed_paid, killed_replayed) = paid("whole"), paid("killed")
    assert killed_paid == whole_paid > 0
    assert killed_replayed > whole_replayed
