"""sft, cold_start and grpo under Ray Train: the job goes to the workers as JSON, the filled folder becomes the
artifact.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.manifest import Counts
from agentflow.artifacts.store import Store
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.stages.sft import SftConfig
from agentflow.training.jobs import ADAPTER, PolicyJob, SupervisedJob, TrainingSummary
from agentflow.training.review import save_rows, select
from tasks.context import RunContext
from tasks.fitting import fit
from tasks.making import Effort, Made, make

CHOSEN = "chosen.json"
# Samples of a cold start, each with the reason why it was chosen.


def _attempt(store: Store, identity: Identity) -> Path:
    """The folder this stage trains in, kept until it is committed: a killed training goes on from its checkpoints.

    Named after the fingerprint, so another identity never goes on from them; the stage's lock keeps others out.
    """
    folder = store.root / identity.stage / ".training" / identity.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _commit(
    store: Store,
    identity: Identity,
    where: RunContext,
    effort: Effort,
    out: Path,
    summary: TrainingSummary,
    review_rejected: int = 0,
) -> Artifact:
    """Publish the attempt's adapter, summary and further files; its checkpoints and events are removed then."""
    dropped: dict[str, int] = {"review_rejected": review_rejected} if review_rejected else {}
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
        keys_in=summary.rows_in + review_rejected,
        counts=Counts(out=summary.rows_used, dropped=dropped),
        extra={**facts, **summary.extra},
    )
    shutil.rmtree(out)
    return artifact


@task(name="sft", task_run_name="sft", retries=0, cache_policy=NO_CACHE)
def make_sft(identity: Identity, config: SftConfig, kept: Made, base: Made, where: RunContext) -> Made:
    """A new LoRA adapter, trained on the filtered traces."""

    def compute(store: Store, effort: Effort) -> Artifact:
        out = _attempt(store, identity)
        job = SupervisedJob(
            settings=config.settings,
            prompt=config.prompt,
            rows=kept.artifact.path,
            base=base.artifact.path,
            out=out,
            progress=where.progress("sft"),
            events=where.folder / "tensorboard" / "sft",
            workers=where.training_of("sft").workers,
        )
        return _commit(store, identity, where, effort, out, fit(job, "sft", where))

    return make("sft", identity, where, compute)


@task(name="cold-start", task_run_name="cold_start", retries=0, cache_policy=NO_CACHE)
def make_cold_start(
    identity: Identity, config: ColdStartConfig, kept: Made, sft: Made, base: Made, where: RunContext
) -> Made:
    """The SFT adapter, trained on with fewer than 100 chosen reasoning samples."""

    def compute(store: Store, effort: Effort) -> Artifact:
        out = _attempt(store, identity)
        selection = select(kept.artifact.rows(), config)
        (out / CHOSEN).write_text(json.dumps(selection.chosen, indent=1))
        job = SupervisedJob(
            settings=config.settings,
            prompt=config.prompt,
            rows=save_rows(selection.rows, out),
            base=base.artifact.path,
            adapter=sft.artifact.path / ADAPTER,
            out=out,
            progress=where.progress("cold_start"),
            events=where.folder / "tensorboard" / "cold_start",
            workers=where.training_of("cold_start").workers,
        )
        summary = fit(job, "cold_start", where)
        return _commit(store, identity, where, effort, out, summary, review_rejected=len(selection.rejected))

    return make("cold_start", identity, where, compute)


@task(name="grpo", task_run_name="grpo", retries=0, cache_policy=NO_CACHE)
def make_grpo(
    identity: Identity, config: GrpoConfig, questions: Made, kept: Made, cold_start: Made, base: Made, where: RunContext
) -> Made:
    """The cold-start adapter, improved by GRPO with real tools; its rollouts are kept beside it.

    `kept` is read only where fine-tuning on unsolved questions is configured.
    """

    def compute(store: Store, effort: Effort) -> Artifact:
        chosen = choose_prompts(questions.artifact.rows(), config, where.training_of("grpo").workers)
        out = _attempt(store, identity)
        job = PolicyJob(
            config=config,
            questions=questions.artifact.path,
            question_ids=tuple(row["id"] for row in chosen),
            traces=kept.artifact.path if config.cycles.reads_traces else None,
            base=base.artifact.path,
            adapter=cold_start.artifact.path / ADAPTER,
            access=where.access,
            out=out,
            progress=where.progress("grpo"),
            events=where.folder / "tensorboard" / "grpo",
            workers=where.training_of("grpo").workers,
            decode_batch=where.decode_batch,
        )
        return _commit(store, identity, where, effort, out, fit(job, "grpo", where))

    return make("grpo", identity, where, compute)
