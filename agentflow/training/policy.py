"""GRPO: prompts in, a LoRA adapter and all rollouts out, through TRL's GRPOTrainer with our rollout engine.

TRL asks `rollout_func` for completions; the engine runs them with real tools, token for token, and says which tokens
the policy wrote (`env_mask`): injected results carry no loss. A rollout whose tool failed gets no reward at all (None
in every part), so TRL leaves it out of its group's mean and std, and an all-zero mask keeps it out of the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset, load_from_disk
from transformers import TrainerCallback
from trl import GRPOConfig

from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.loading import load_model, load_tokenizer
from agentflow.models.turns import TurnEngine, alone
from agentflow.progress import Progress
from agentflow.records import Rollout
from agentflow.rendering import prompt_turn
from agentflow.rewards.conditional import Verdict, conditional, verdict_of
from agentflow.rewards.contract import gold_of
from agentflow.stages.grpo import GrpoConfig, eligible
from agentflow.toolset import syntax_for
from agentflow.training.callbacks import (
    CheckpointCallback,
    ProgressCallback,
    assert_world_size,
    checkpoint_arguments,
    event_folder,
    resume_point,
)
from agentflow.training.checkpoints import Owner, attempt_lock
from agentflow.training.checks import check_policy, check_surroundings
from agentflow.training.folding import folded_if_sound
from agentflow.training.grading import Graded, RolloutGrader, failure_counts, failures, reward_facts, stop_if_failing
from agentflow.training.guarding import GuardCallback
from agentflow.training.jobs import PolicyJob, TrainingSummary
from agentflow.training.outage import stop_if_tools_are_down, tool_failures
from agentflow.training.ownership import job_digest
from agentflow.training.placing import base_arguments, most_of_all, sharding_arguments, vllm_arguments
from agentflow.training.policy_trainer import WEIGHT, PolicyTrainer
from agentflow.training.reference import ReferenceCallback
from agentflow.training.rollouts import RolloutRecorder, save_rollouts
from agentflow.training.sampling import (
    Drawn,
    GroupSampler,
    Scored,
    opening_of,
    rollout_counts,
    spare_order,
)
from agentflow.training.supervised import common_arguments, publish
from agentflow.training.timing import TimesCallback


def engines(config: GrpoConfig, tokenizer: Any, tools: ToolRunner) -> Callable[[Any], RolloutEngine | TurnEngine]:
    """What makes the engine that samples from a trainer's policy as it is at the moment."""
    syntax = syntax_for(config.prompt.syntax)

    def engine_for(trainer: Any) -> RolloutEngine | TurnEngine:
        if config.engine == "vllm":
            together = config.vllm.mode == "server" or config.vllm.tensor_parallel > 1
            most = most_of_all if together else alone
            return TurnEngine(trainer.vllm_generation, tokenizer, syntax, tools, config.sampling, most)
        current = trainer.accelerator.unwrap_model(trainer.model)
        return RolloutEngine(current, tokenizer, syntax, tools, config.sampling)

    return engine_for


def make_rollout_func(
    engine_for: Callable[[Any], RolloutEngine | TurnEngine],
    sampler: GroupSampler,
    recorder: RolloutRecorder,
    batch_size: int,
) -> Any:
    """TRL's `rollout_func`: completions for the prompts it passes (each prompt stands there once per sample)."""

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        step, rank = trainer.state.global_step, trainer.accelerator.process_index
        engine = engine_for(trainer)

        def generate(texts: list[str], seeds: list[int]) -> list[Rollout]:
            return engine.run(texts, head=recorder.head, seeds=seeds, batch_size=batch_size)

        # vLLM has a copy of its own, which TRL keeps up to date.
        with folded_if_sound(engine.model) if isinstance(engine, RolloutEngine) else nullcontext():
            ends = {*trainer.eos_token_ids, trainer.processing_class.pad_token_id}
            drawn = sampler.draw(prompts, step, rank, generate, ends)
        texts, fates = [one.prompt for one in drawn.all], [one.fate for one in drawn.all]
        recorder.record(step, rank, texts, [one.scored for one in drawn.all], fates)
        stop_if_many_failed(recorder, step)
        return trainer_columns(drawn.used)

    return rollout_func


def stop_if_many_failed(recorder: RolloutRecorder, step: int) -> None:
    """After the rollouts of `step`, in all workers alike: raise GraderFailed or ToolsUnavailable."""
    config = recorder.config
    newest = range(step + 1 - min(config.tool_failures.steps, config.steps), step + 1)
    counts = gather_object([(failures(recorder.rows), tool_failures(recorder.rows, newest))])
    graded = [of_worker for of_worker, _ in counts]
    stop_if_failing(sum(failed for failed, _ in graded), sum(asked for _, asked in graded), config.grader)
    if newest[0] >= 0:
        stop_if_tools_are_down([of_worker for _, of_worker in counts], config.tool_failures)


def trainer_columns(used: Sequence[Drawn]) -> dict[str, list[Any]]:
    """What TRL reads, one entry a place. A rollout without loss has an all-zero mask; out of all means, no reward."""
    rollouts = [one.scored.rollout for one in used]
    return {
        "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
        "completion_ids": [rollout.completion_ids for rollout in rollouts],
        "logprobs": [rollout.logprobs for rollout in rollouts],
        "env_mask": [
            one.scored.rollout.model_written if one.trained else [0] * len(one.scored.rollout.model_written)
            for one in used
        ],
        "reward_parts": [one.scored.parts if one.counted else None for one in used],
        WEIGHT: [one.weight for one in used],
    }


def make_sampler(
    job: PolicyJob, recorder: RolloutRecorder, grader: RolloutGrader, questions: Sequence[dict[str, Any]]
) -> GroupSampler:
    """The sampler that judges by `grader`'s reward and draws spare questions from all that the run may train on."""
    config = job.config
    spare = {row["id"]: prompt_turn(row["question"], config.prompt) for row in eligible(questions, config)}

    def score(prompts: Sequence[str], rollouts: Sequence[Rollout]) -> list[Scored]:
        asked = [recorder.by_prompt[prompt] for prompt in prompts]
        return [one(question, graded) for question, graded in zip(asked, grader.grade(rollouts, asked), strict=True)]

    def one(question: dict[str, Any], graded: Graded) -> Scored:
        if graded.parts is None:
            return Scored(graded.rollout, None, None, None)
        final = config.reward.accuracy_part
        gold = gold_of(question)
        if gold.calls:
            verdict: Verdict = "right" if graded.parts[final] >= config.reward.best(gold) else "wrong"
        else:
            verdict = verdict_of(graded.answer, question["answer"], question["aliases"], question["answer_type"])
        parts = conditional(graded.parts, verdict, config.intermediate_rewards, final)
        return Scored(graded.rollout, parts, recorder.weighted(parts), verdict, graded.answer)

    def spare_prompts(step: int, rank: int) -> list[str]:
        return [spare[i] for i in spare_order(list(spare), config.optimiser.seed, step, rank, job.workers)]

    def opening(prompt: str) -> str:
        return opening_of(recorder.by_prompt[prompt]["rationale"], config.solution_prefix)

    return GroupSampler(config, score, spare_prompts, opening, job.workers, gather_object)


def reward_function(name: str) -> Any:
    """TRL's reward function for one named part; the parts were scored with the rollouts."""

    def reward(prompts: list[Any], completions: list[Any], reward_parts: list[Any], **_: Any) -> list[float | None]:
        return [None if parts is None else parts[name] for parts in reward_parts]

    reward.__name__ = name
    return reward


def train_policy(job: PolicyJob, callbacks: Sequence[TrainerCallback] = ()) -> TrainingSummary:
    """Train and write `job.out` (rank 0), with the tools open all the while.

    Goes on from the newest whole checkpoint in `job.out`: the rollouts made until then come with it, later ones are
    sampled again from the same seeds, and their paid calls replayed from the ledger.
    """
    assert job.config.cycles.n == 0, "phases are trained one by one (training.cycles)"
    check_surroundings(job.config.optimiser)
    check_policy(job.config, job.workers)
    opened = job.access.open_toolbox(job.config.tools, job.config.search, job.config.edition)
    with (
        attempt_lock(job.out),
        event_folder(job.events),
        ToolRunner(opened) as tools,
        RolloutGrader(job.config, tools.schemas) as grader,
    ):
        return _train(job, tools, grader, callbacks)


def _train(
    job: PolicyJob, tools: ToolRunner, grader: RolloutGrader, callbacks: Sequence[TrainerCallback]
) -> TrainingSummary:
    config = job.config
    torch.manual_seed(config.optimiser.seed)
    tokenizer = load_tokenizer(job.base)
    questions = load_from_disk(str(job.questions)).to_list()
    by_id = {row["id"]: row for row in questions}
    chosen = [by_id[row_id] for row_id in job.question_ids]
    may_train_on = [*eligible(questions, config), *chosen]
    owner = Owner(job.workers, job_digest({"config": config}, job.base, job.adapter, may_train_on))
    recorder = RolloutRecorder(config, {prompt_turn(row["question"], config.prompt): row for row in may_train_on})
    model = load_model(job.base, adapter=job.adapter, trainable=True, **base_arguments(config.optimiser))

    guard = GuardCallback(config, lambda: recorder.rows, job.out, owner)
    trainer = policy_trainer(
        job,
        model=model,
        train_dataset=Dataset.from_list([{"prompt": prompt_turn(row["question"], config.prompt)} for row in chosen]),
        processing_class=tokenizer,
        reward_funcs=[reward_function(part.name) for part in config.reward.parts()],
        rollout_func=make_rollout_func(
            engines(config, tokenizer, tools),
            make_sampler(job, recorder, grader, questions),
            recorder,
            job.decode_batch,
        ),
        callbacks=[
            ProgressCallback(Progress(job.progress, "steps")),
            TimesCallback(),
            ReferenceCallback(config.reference),
            CheckpointCallback(owner, recorder.save_part),
            *([] if config.guard.action == "off" else [guard]),
            *callbacks,
        ],
    )
    assert_world_size(trainer, job.workers)
    before = adapter_digest(model)
    resume = resume_point(trainer, owner)
    if resume is not None:
        recorder.load_part(Path(resume), trainer.args.process_index)
    trainer.train(resume_from_checkpoint=resume)
    concluded = guard.conclude(model)
    rows = gather_object(recorder.rows)
    stop_if_failing(*failures(rows), config.grader, judged_from=0)
    summary = summary_of(job, trainer, model, rows, {"adapter_before": before, **concluded})
    if trainer.is_world_process_zero():
        publish(model, job.adapter_out, job.out, summary)
        save_rollouts(rows, job)
    return summary


def policy_trainer(job: PolicyJob, **parts: Any) -> PolicyTrainer:
    """TRL's trainer of `job` and `parts`, which gives vLLM, where that samples, what `vllm.sync` says."""
    arguments = policy_arguments(job)
    if job.config.engine == "vllm" and job.config.vllm.sync == "adapter":
        from agentflow.training.adapter_sync import adapter_alone

        with adapter_alone(job.out / "trainer" / "vllm"):
            return PolicyTrainer(args=arguments, **parts)
    return PolicyTrainer(args=arguments, **parts)


def summary_of(
    job: PolicyJob, trainer: Any, model: Any, rows: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> TrainingSummary:
    """What a finished training leaves for the manifest, from all workers' rollouts and `facts`."""
    return TrainingSummary(
        rows_in=len(set(job.question_ids)),
        rows_used=len(set(job.question_ids)),
        steps=trainer.state.global_step,
        log=tuple(trainer.state.log_history),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        extra={
            "adapter_after": adapter_digest(model),
            "reward": reward_facts(job.config),
            **rollout_counts(rows),
            **failure_counts(rows),
            **facts,
        },
    )


def policy_arguments(job: PolicyJob) -> GRPOConfig:
    """TRL's arguments: everything METHODS names is set explicitly, since TRL's defaults differ."""
    config = job.config
    return GRPOConfig(
        **common_arguments(config.optimiser, job.out),
        **checkpoint_arguments(config.checkpoint_steps),
        max_steps=config.steps,
        num_generations=config.group_size,
        max_completion_length=config.generation.max_new_tokens,
        temperature=config.sampling.temperature,
        beta=config.beta,
        epsilon=config.clip,
        epsilon_high=config.clip_high,
        loss_type=config.loss_type,
        scale_rewards=config.scale_rewards,
        entropy_coef=config.entropy_bonus,
        top_entropy_quantile=config.entropy_quantile,
        mask_truncated_completions=config.mask_truncated,
        reward_weights=[part.weight for part in config.reward.parts()],
        shuffle_dataset=False,
        remove_unused_columns=False,
        **sharding_arguments(config.optimiser, config.gradient_checkpointing),
        **(vllm_arguments(config.vllm) if config.engine == "vllm" else {}),
        log_completions=False,
        warmup_steps=round(config.optimiser.warmup_ratio * config.steps),
    )


def adapter_digest(model: Any) -> str:
    """sha256 over all trainable weights: tells whether training changed them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
