"""sft, cold_start and grpo under Ray Train: the job goes to the workers as JSON, the filled folder becomes the
artifact.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.manifest import Counts
from agentflow.artifacts.store import Store
from agentflow.stages.cold_start import ColdStartConfig, choose
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.stages.sft import SftConfig
from agentflow.training.jobs import ADAPTER, SUMMARY, PolicyJob, SupervisedJob, TrainingSummary
from tasks.context import Resources, RunContext
from tasks.making import Effort, Made, make

CHOSEN = "chosen.json"
# Samples of a cold start, each with the reason why it was chosen.


def train_fn(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs. Imports are inside: the driver needs no torch."""
    import ray.train

    if config["kind"] == "supervised":
        from agentflow.training.supervised import train_supervised

        summary = train_supervised(SupervisedJob.model_validate_json(config["job"]))
    else:
        from agentflow.training.policy import train_policy

        summary = train_policy(PolicyJob.model_validate_json(config["job"]))
    ray.train.report({"steps": summary.steps})


def fit(job: SupervisedJob | PolicyJob, name: str, resources: Resources, where: RunContext) -> TrainingSummary:
    """Run `job` under TorchTrainer; returns its summary. Raises ray's TrainingFailedError with the worker's error."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = resources.gpus > 0
    trainer = TorchTrainer(
        train_fn,
        train_loop_config={"kind": job.kind, "job": job.model_dump_json()},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": 1} if gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        # The same name and storage path would resume another attempt by itself: every attempt has its own.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str((where.folder / "ray_train").absolute()),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()
    return TrainingSummary.model_validate_json((job.out / SUMMARY).read_text())


def _scratch(where: RunContext, identity: Identity) -> Path:
    """An empty folder for one training attempt; what is worth keeping is moved into the artifact."""
    folder = (where.root / "scratch" / f"{identity.stage}-{identity.fingerprint}-{uuid.uuid4().hex[:8]}").absolute()
    folder.mkdir(parents=True)
    return folder


def _commit(
    store: Store, identity: Identity, where: RunContext, effort: Effort, out: Path, summary: TrainingSummary
) -> Artifact:
    """Publish the attempt's adapter, summary and further files; working files (optimiser, events) stay behind."""
    dropped: dict[str, int] = {}
    for reject in summary.rejects:
        dropped[reject["reason"]] = dropped.get(reject["reason"], 0) + 1

    def write(folder: Path) -> None:
        for path in out.iterdir():
            if path.name != "trainer":
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)

    facts = summary.model_dump(mode="json", exclude={"log", "rejects", "extra"})
    artifact = store.commit_files(
        identity,
        write,
        recipe=where.recipe,
        **effort.spent(),
        keys_in=summary.rows_in,
        counts=Counts(out=summary.rows_used, dropped=dropped),
        extra={**facts, **summary.extra},
    )
    shutil.rmtree(out)
    return artifact


@task(name="sft", task_run_name="sft", retries=0, cache_policy=NO_CACHE)
def make_sft(identity: Identity, config: SftConfig, kept: Made, base: Made, where: RunContext) -> Made:
    """A new LoRA adapter, trained on the filtered traces."""

    def compute(store: Store, effort: Effort) -> Artifact:
        out = _scratch(where, identity)
        job = SupervisedJob(
            settings=config.settings,
            prompt=config.prompt,
            rows=kept.artifact.path,
            base=base.artifact.path,
            out=out,
            progress=where.progress("sft"),
            workers=where.training.workers,
        )
        return _commit(store, identity, where, effort, out, fit(job, "sft", where.training, where))

    return make("sft", identity, where, compute)


@task(name="cold-start", task_run_name="cold_start", retries=0, cache_policy=NO_CACHE)
def make_cold_start(
    identity: Identity, config: ColdStartConfig, kept: Made, sft: Made, base: Made, where: RunContext
) -> Made:
    """The SFT adapter, trained on with fewer than 100 chosen reasoning samples."""

    def compute(store: Store, effort: Effort) -> Artifact:
        chosen = choose(kept.artifact.rows(), config)
        out = _scratch(where, identity)
        (out / CHOSEN).write_text(json.dumps(chosen, indent=1))
        job = SupervisedJob(
            settings=config.settings,
            prompt=config.prompt,
            rows=kept.artifact.path,
            row_ids=tuple(sample["id"] for sample in chosen),
            base=base.artifact.path,
            adapter=sft.artifact.path / ADAPTER,
            out=out,
            progress=where.progress("cold_start"),
            workers=where.training.workers,
        )
        return _commit(store, identity, where, effort, out, fit(job, "cold_start", where.training, where))

    return make("cold_start", identity, where, compute)


@task(name="grpo", task_run_name="grpo", retries=0, cache_policy=NO_CACHE)
def make_grpo(
    identity: Identity, config: GrpoConfig, questions: Made, cold_start: Made, base: Made, where: RunContext
) -> Made:
    """The cold-start adapter, improved by GRPO with real tools; its rollouts are kept beside it."""

    def compute(store: Store, effort: Effort) -> Artifact:
        chosen = choose_prompts(questions.artifact.rows(), config, where.training.workers)
        out = _scratch(where, identity)
        job = PolicyJob(
            config=config,
            questions=questions.artifact.path,
            question_ids=tuple(row["id"] for row in chosen),
            base=base.artifact.path,
            adapter=cold_start.artifact.path / ADAPTER,
            access=where.access,
            out=out,
            progress=where.progress("grpo"),
            workers=where.training.workers,
            decode_batch=where.decode_batch,
        )
        return _commit(store, identity, where, effort, out, fit(job, "grpo", where.training, where))

    return make("grpo", identity, where, compute)
