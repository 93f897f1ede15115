"""A training that was stopped goes on as if it had not been: same losses, same weights, same rollouts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from datasets import load_from_disk
from pipeline_rows import filtered_rows, save
from safetensors.torch import load_file, save_file
from stopping import StopAt, Stopped, history
from taught_model import PROMPT, policy_job

from agentflow.errors import ConfigError, CorruptArtifact
from agentflow.models.settings import GenerationConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.checkpoints import SEAL, Owner, newest_verified, seal, verify
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import PolicyJob, SupervisedJob
from agentflow.training.policy import train_policy
from agentflow.training.supervised import train_supervised

OPTIMISER = OptimiserSettings(learning_rate=5e-3, schedule="cosine", warmup_ratio=0.2, weight_decay=0.1, batch_size=4)
# A schedule, momentum and dropout: every kind of state must come back for the losses to agree.


def supervised_job(base: Path, rows: Path, out: Path) -> SupervisedJob:
    settings = SupervisedSettings(
        lora=LoraSettings(rank=8, dropout=0.2),
        optimiser=OPTIMISER.model_copy(update={"accumulation": 1}),
        max_steps=6,
        checkpoint_steps=1,
    )
    return SupervisedJob(settings=settings, prompt=PROMPT, rows=rows, base=base, out=out)


def stoppable_policy(taught: Path, out: Path) -> PolicyJob:
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=24),
        steps=6,
        group_size=4,
        optimiser=OPTIMISER.model_copy(update={"accumulation": 2, "learning_rate": 1e-3}),
        checkpoint_steps=1,
    )
    return policy_job(taught, out, config)


def weights(out: Path) -> dict:
    return load_file(out / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return save(filtered_rows(16), tmp_path_factory.mktemp("rows") / "rows")


@pytest.fixture(scope="module")
def undisturbed(tiny_base, rows, tmp_path_factory):
    """Six steps of SFT without a stop."""
    job = supervised_job(tiny_base, rows, tmp_path_factory.mktemp("whole"))
    return job, train_supervised(job)


def test_a_stopped_fine_tuning_goes_on_with_the_same_losses(undisturbed, tiny_base, rows, tmp_path):
    whole_job, whole = undisturbed
    job = supervised_job(tiny_base, rows, tmp_path)
    with pytest.raises(Stopped):
        train_supervised(job, [StopAt(3)])
    resumed = train_supervised(job, [StopAt(2)])  # it would stop again if it began before step 3
    assert resumed.steps == 6
    assert history(resumed, "loss", "learning_rate", "grad_norm") == [
        pytest.approx(entry, abs=1e-5) for entry in history(whole, "loss", "learning_rate", "grad_norm")
    ]
    expected = weights(whole_job.out)
    assert all((weight - expected[name]).abs().max() < 1e-5 for name, weight in weights(tmp_path).items())


def test_a_torn_checkpoint_is_set_aside_and_the_one_before_is_used(undisturbed, tiny_base, rows, tmp_path):
    _, whole = undisturbed
    job = supervised_job(tiny_base, rows, tmp_path)
    with pytest.raises(Stopped):
        train_supervised(job, [StopAt(4)])
    torn = tmp_path / "trainer" / "checkpoint-4" / "optimizer.pt"
    os.truncate(torn, torn.stat().st_size - 1)
    resumed = train_supervised(job, [StopAt(2)])
    assert history(resumed, "loss") == [pytest.approx(entry, abs=1e-5) for entry in history(whole, "loss")]
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "trainer").glob("torn-*")] == ["torn-checkpoint-4"]


def test_a_finished_training_whose_commit_was_killed_trains_nothing_again(undisturbed):
    job, whole = undisturbed
    again = train_supervised(job, [StopAt(0), StopAt(5)])
    assert (again.steps, history(again, "loss")) == (6, history(whole, "loss"))


def test_a_stopped_policy_training_goes_on_with_the_same_rollouts_and_losses(taught, tmp_path):
    whole = train_policy(stoppable_policy(taught, tmp_path / "whole"))
    job = stoppable_policy(taught, tmp_path / "stopped")
    with pytest.raises(Stopped):
        train_policy(job, [StopAt(3)])
    resumed = train_policy(job, [StopAt(2)])
    names = ("loss", "reward", "learning_rate", "grad_norm")
    assert history(resumed, *names) == [pytest.approx(entry, abs=1e-5) for entry in history(whole, *names)]
    assert load_from_disk(str(job.rollouts_out)).to_list() == load_from_disk(str(tmp_path / "whole/rollouts")).to_list()
    assert resumed.extra == {**whole.extra, "adapter_after": resumed.extra["adapter_after"]}


# ---------------------------------------------------------------- the files
ME = Owner(1, "the job")


def checkpoint(folder: Path, step: int, owner: Owner = ME) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        (path / name).write_bytes(f"{name} {step}".encode() * 20)
    (path / "training_args.bin").write_bytes(b"a pickle")
    seal(path, step, owner)
    return path


def test_a_sealed_checkpoint_holds_no_pickled_object_and_verifies(tmp_path):
    path = checkpoint(tmp_path, 3)
    assert not (path / "training_args.bin").exists()
    assert verify(path).step == 3 and len(verify(path).files) == 3


def damage_missing(path: Path) -> None:
    (path / "optimizer.pt").unlink()


def damage_truncated(path: Path) -> None:
    os.truncate(path / "adapter_model.safetensors", 10)


def damage_flipped(path: Path) -> None:
    content = bytearray((path / "trainer_state.json").read_bytes())
    content[7] ^= 1
    (path / "trainer_state.json").write_bytes(content)


def damage_foreign_file(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(b"somebody else's")


def damage_unsealed(path: Path) -> None:
    (path / SEAL).unlink()


def damage_edited_seal(path: Path) -> None:
    (path / SEAL).write_text((path / SEAL).read_text().replace('"step": 20', '"step": 21'))


@pytest.mark.parametrize(
    "damage",
    [damage_missing, damage_truncated, damage_flipped, damage_foreign_file, damage_unsealed, damage_edited_seal],
)
def test_whatever_is_damaged_the_newest_whole_checkpoint_is_used(tmp_path, damage):
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 20)
    assert newest_verified(tmp_path, ME) == newer, "20 is newer than 9 whatever their names sort to"
    damage(newer)
    with pytest.raises(CorruptArtifact, match="checkpoint-20"):
        verify(newer)
    assert newest_verified(tmp_path, ME) == older
    assert not newer.exists() and newest_verified(tmp_path, ME) == older


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (Owner(2, "the job"), r"written by 2 workers and this training has 1: .*give it 2 .*remove '.*' to begin anew"),
        (Owner(1, "another"), "checkpoint-3' is another job's: settings, data, base or adapter differ"),
        (Owner(1, ""), "does not say whose it is"),
    ],
)
def test_a_checkpoint_of_another_job_or_number_of_workers_is_refused_and_kept(tmp_path, owner, message):
    path = checkpoint(tmp_path, 3, owner)
    with pytest.raises(ConfigError, match=message):
        newest_verified(tmp_path, ME)
    assert list(tmp_path.iterdir()) == [path] and newest_verified(tmp_path, owner) == path
    assert newest_verified(tmp_path / "nothing", ME) is None


def test_a_training_refuses_to_go_on_from_the_checkpoint_of_another_job(tiny_base, rows, tmp_path):
    job = supervised_job(tiny_base, rows, tmp_path)
    with pytest.raises(Stopped):
        train_supervised(job, [StopAt(2)])
    other = job.settings.model_copy(update={"optimiser": OPTIMISER.model_copy(update={"learning_rate": 1e-3})})
    with pytest.raises(ConfigError, match="checkpoint-2' is another job's"):
        train_supervised(job.model_copy(update={"settings": other}))
    fewer = tuple(row["id"] for row in load_from_disk(str(rows)).to_list()[:-1])
    with pytest.raises(ConfigError, match="checkpoint-2' is another job's"):
        train_supervised(job.model_copy(update={"row_ids": fewer}))
    assert not list((tmp_path / "trainer").glob("torn-*"))
    elsewhere = job.settings.model_copy(update={"checkpoint_steps": 3, "merged_export": False})
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert train_supervised(job.model_copy(update={"out": moved, "settings": elsewhere}), [StopAt(1)]).steps == 6


def test_a_policy_training_refuses_the_checkpoint_of_other_questions_or_another_adapter(taught, tmp_path):
    job = stoppable_policy(taught, tmp_path / "out")
    with pytest.raises(Stopped):
        train_policy(job, [StopAt(1)])
    with pytest.raises(ConfigError, match="checkpoint-1' is another job's"):
        train_policy(job.model_copy(update={"question_ids": job.question_ids[::-1]}))
    shutil.copytree(job.adapter, tmp_path / "adapter")
    weights = load_file(job.adapter / "adapter_model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ConfigError, match="checkpoint-1' is another job's"):
        train_policy(job.model_copy(update={"adapter": tmp_path / "adapter"}))
