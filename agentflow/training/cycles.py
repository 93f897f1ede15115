"""GRPO and fine-tuning in turns: phases of policy training with a fine-tuning on rollouts and traces between them.

In: a policy job. Out: what `train_policy` leaves, over all phases. Nothing here trains: each phase is an ordinary job
in a folder of its own beside the checkpoints, and goes on from its own checkpoints after a kill; phases that were
finished find that they have nothing left to do. A phase that the collapse guard rolled back is the last one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import load_from_disk
from transformers import TrainerCallback

from agentflow.toolset import syntax_for
from agentflow.training.checkpoints import attempt_lock
from agentflow.training.grading import failure_counts
from agentflow.training.jobs import SUMMARY, PolicyJob, SupervisedJob, TrainingSummary
from agentflow.training.policy import train_policy
from agentflow.training.policy_options import CycleSettings
from agentflow.training.review import save_rows
from agentflow.training.rollouts import save_rollouts
from agentflow.training.sampling import rollout_counts
from agentflow.training.solved import unsolved_rows, verified_rows
from agentflow.training.supervised import train_supervised


@dataclass
class _Whole:
    """What all phases did so far, with steps counted through."""

    steps: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    fine_tunings: list[dict[str, Any]] = field(default_factory=list)
    unjudged: int = 0
    # Steps that the guard did not judge.
    rolled_back_to: int | None = None
    # The step whose weights came back, where a phase ended so.

    def take(self, summary: TrainingSummary, rollouts: Sequence[dict[str, Any]]) -> None:
        first = self.steps
        self.log += [{**entry, "step": entry["step"] + first} for entry in summary.log]
        self.alarms += [{**alarm, "step": alarm["step"] + first} for alarm in summary.extra.get("alarms", ())]
        self.unjudged += summary.extra.get("guard_unjudged_steps", 0)
        if "rolled_back_to" in summary.extra:
            self.rolled_back_to = summary.extra["rolled_back_to"] + first
        for row in rollouts:
            step = row["step"] + first
            self.rollouts.append({**row, "step": step, "id": f"{step:05d}-{row['id'].partition('-')[2]}"})
        self.steps += summary.steps

    def facts(self) -> dict[str, Any]:
        """For the manifest, in place of the last phase's own; what did not happen is not named."""
        facts = {**rollout_counts(self.rollouts), **failure_counts(self.rollouts), "fine_tunings": self.fine_tunings}
        if self.alarms:
            facts["alarms"] = self.alarms
        if self.unjudged:
            facts["guard_unjudged_steps"] = self.unjudged
        if self.rolled_back_to is not None:
            facts["rolled_back_to"] = self.rolled_back_to
        return facts


def train_in_cycles(job: PolicyJob, callbacks: Sequence[TrainerCallback] = ()) -> TrainingSummary:
    """Train `job` as it is, or in `config.cycles.n` + 1 phases with a fine-tuning between each two."""
    if job.config.cycles.n == 0:
        return train_policy(job, callbacks)
    with attempt_lock(job.out):
        return _train(job, callbacks)


def _train(job: PolicyJob, callbacks: Sequence[TrainerCallback]) -> TrainingSummary:
    whole, adapter = _Whole(), job.adapter
    summaries = []
    for number, phase in enumerate(phases(job)):
        policy = phase.model_copy(update={"adapter": adapter})
        summaries.append(train_policy(policy, callbacks))
        PartialState().wait_for_everyone()
        rollouts, adapter = load_from_disk(str(policy.rollouts_out)).to_list(), policy.adapter_out
        whole.take(summaries[-1], rollouts)
        if whole.rolled_back_to is not None:
            break  # the guard has ended the training: these are the last good weights
        if number < job.config.cycles.n:
            adapter = fine_tune(job, number, rollouts, adapter, whole.fine_tunings, callbacks)
    first, last = summaries[0], summaries[-1]
    summary = last.model_copy(
        update={
            "rows_in": len(set(job.question_ids)),
            "rows_used": len(set(job.question_ids)),
            "steps": whole.steps,
            "log": tuple(whole.log),
            "extra": {
                **last.extra,
                "adapter_before": first.extra["adapter_before"],
                **whole.facts(),
            },
        }
    )
    if PartialState().is_main_process:
        shutil.copytree(adapter, job.adapter_out, dirs_exist_ok=True)
        save_rollouts(whole.rollouts, job)
        (job.out / SUMMARY).write_text(summary.model_dump_json(indent=1))
    return summary


def phases(job: PolicyJob) -> list[PolicyJob]:
    """The jobs of GRPO's phases: steps and questions shared out in order, each with seeds of its own."""
    config = job.config
    n = config.cycles.n + 1
    per_step = len(job.question_ids) // config.steps
    jobs, done = [], 0
    for number in range(n):
        steps = config.steps // n + (number < config.steps % n)
        optimiser = config.optimiser.model_copy(update={"seed": config.optimiser.seed + number})
        changed = {"steps": steps, "cycles": CycleSettings(), "optimiser": optimiser}
        changes: dict[str, Any] = {
            "config": config.model_copy(update=changed),
            "question_ids": job.question_ids[done * per_step : (done + steps) * per_step],
            "out": job.out / "trainer" / f"grpo-{number}",
            "events": None if job.events is None else job.events / f"grpo-{number}",
        }
        jobs.append(job.model_copy(update=changes))
        done += steps
    return jobs


def fine_tune(
    job: PolicyJob,
    number: int,
    rollouts: Sequence[dict[str, Any]],
    adapter: Path,
    facts: list[dict[str, Any]],
    callbacks: Sequence[TrainerCallback],
) -> Path:
    """The adapter after fine-tuning `number`; as it was where no row came of the phase. Adds to `facts` what it did."""
    cycles, prompt = job.config.cycles, job.config.prompt
    questions = {row["id"]: row for row in load_from_disk(str(job.questions)).to_list()}
    own = verified_rows(rollouts, questions, syntax_for(prompt.syntax), cycles.per_question) if cycles.own else []
    unsolved = []
    if cycles.reads_traces:
        assert job.traces is not None
        unsolved = unsolved_rows(rollouts, questions, load_from_disk(str(job.traces)).to_list())
    facts.append({"own": len(own), "unsolved": len(unsolved), "steps": 0})
    if not own and not unsolved:
        return adapter
    out = job.out / "trainer" / f"sft-{number}"
    out.mkdir(parents=True, exist_ok=True)
    if PartialState().is_main_process:
        save_rows([*own, *unsolved], out)
    PartialState().wait_for_everyone()
    supervised = SupervisedJob(
        settings=cycles.settings,
        prompt=prompt,
        rows=out / "trainer" / "rows",
        base=job.base,
        adapter=adapter,
        out=out,
        progress=job.progress,
        events=None if job.events is None else job.events / f"sft-{number}",
        workers=job.workers,
    )
    facts[-1]["steps"] = train_supervised(supervised, callbacks).steps
    PartialState().wait_for_everyone()
    return supervised.adapter_out
