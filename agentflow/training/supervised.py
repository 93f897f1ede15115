"""SFT and cold start: encoded rows in, a LoRA adapter out, through TRL's SFTTrainer.

Rows are encoded by our one mask function into `input_ids` and `labels`, which TRL takes as they are: it masks and cuts
nothing. Runs plain, under torchrun and under Ray Train alike (`train_supervised(job)` in every worker).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from agentflow.errors import ConfigError
from agentflow.models.loading import (
    held_in_four_bits,
    load_model,
    load_tokenizer,
    never_repacked,
    no_foreign_code,
    put_adapter,
    resolve,
    start_ids,
    tokenize_with,
)
from agentflow.progress import Progress
from agentflow.training.callbacks import (
    CheckpointCallback,
    ProgressCallback,
    assert_world_size,
    checkpoint_arguments,
    event_folder,
    resume_point,
)
from agentflow.training.checkpoints import Owner, attempt_lock
from agentflow.training.checks import check_compiling, check_sharded, check_sharding, check_surroundings, uses_gpu
from agentflow.training.config import EvaluationSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.encoding import (
    encode_rows,
    packed,
    rows_per_step,
    split_for_evaluation,
    total_steps,
    training_order,
)
from agentflow.training.jobs import MERGED, SUMMARY, SupervisedJob, TrainingSummary
from agentflow.training.ownership import job_digest
from agentflow.training.placing import (
    base_arguments,
    compile_layers,
    keep_borders,
    lora_config,
    one_dtype,
    optimiser_name,
    quantised_arguments,
    sharding_arguments,
    whole_adapter,
    without_casts,
)
from agentflow.training.timing import TimesCallback


def _load_rows(job: SupervisedJob) -> list[dict[str, Any]]:
    rows = load_from_disk(str(job.rows)).to_list()
    if job.row_ids is None:
        return rows
    by_id = {row["id"]: row for row in rows}
    return [by_id[row_id] for row_id in job.row_ids]


def trainable_model(base: Path, adapter: Path | None, settings: SupervisedSettings) -> PeftModel:
    """The base with a trainable adapter: the given one, or a new one by `settings.lora`."""
    if settings.four_bit or held_in_four_bits(base):
        name, revision = resolve(base)
        with no_foreign_code(name):
            model = AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision,
                trust_remote_code=False,
                **quantised_arguments(settings.optimiser, settings.packing),
            )
        never_repacked(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=settings.gradient_checkpointing)
        if adapter is not None:
            return put_adapter(model, adapter, name, trainable=True)
    elif adapter is not None:
        return load_model(base, adapter=adapter, trainable=True, **base_arguments(settings.optimiser, settings.packing))
    else:
        model = load_model(base, **base_arguments(settings.optimiser, settings.packing))
    return get_peft_model(model, lora_config(settings.lora))


def common_arguments(optimiser: OptimiserSettings, out: Path) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments` that SFT and GRPO share.

    On CPU training is fp32: bf16 is emulated there and slow.
    """
    gpu = uses_gpu(optimiser)
    return {
        "output_dir": str(out / "trainer"),
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": optimiser.schedule,
        "optim": optimiser_name(optimiser),
        "adam_beta1": optimiser.beta1,
        "adam_beta2": optimiser.beta2,
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.max_grad_norm,
        "per_device_train_batch_size": optimiser.batch_size,
        "gradient_accumulation_steps": optimiser.accumulation,
        "seed": optimiser.seed,
        "bf16": gpu,
        "use_cpu": not gpu,
        "logging_steps": 1,
        "report_to": ["tensorboard", *optimiser.report_to],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def train_supervised(job: SupervisedJob, callbacks: Sequence[TrainerCallback] = ()) -> TrainingSummary:
    """Train and write `job.out` (rank 0). Raises ConfigError if no row can be trained on.

    Goes on from the newest whole checkpoint in `job.out`, with the same losses as if it had never stopped.
    """
    check_surroundings(job.settings.optimiser)
    check_sharding(job.settings.optimiser, job.workers)
    check_compiling(job.settings, job.workers)
    with attempt_lock(job.out), event_folder(job.events):
        return _train(job, callbacks)


def _train(job: SupervisedJob, callbacks: Sequence[TrainerCallback]) -> TrainingSummary:
    settings = job.settings
    torch.manual_seed(settings.optimiser.seed)
    tokenizer = load_tokenizer(job.base)
    rows = _load_rows(job)
    tokenize = tokenize_with(tokenizer)
    encoded, rejects = encode_rows(
        rows, job.prompt, settings.max_length, tokenize, tokenizer.eos_token_id, start_ids(tokenizer)
    )
    if not encoded:
        raise ConfigError(
            f"none of {len(rows)} rows can be trained on: {rejects[:3]}; raise max_length or look at the rows"
        )
    data = prepare(encoded, settings, job.workers)
    owner = Owner(job.workers, job_digest({"settings": settings, "prompt": job.prompt}, job.base, job.adapter, encoded))
    model = trainable_model(job.base, job.adapter, settings)
    one_dtype(model, settings.optimiser)
    if settings.packing:
        keep_borders(model.get_base_model(), settings.optimiser)
    if settings.compile_layers:
        compile_layers(model)
    trainer = SFTTrainer(
        model=model,
        args=supervised_arguments(job, data),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        callbacks=[
            ProgressCallback(Progress(job.progress, "steps")),
            TimesCallback(),
            CheckpointCallback(owner),
            *early_stop(settings.evaluation),
            *callbacks,
        ],
    )
    assert_world_size(trainer, job.workers)
    check_sharded(trainer, settings.optimiser)
    with without_casts(model, settings.optimiser):
        trainer.train(resume_from_checkpoint=resume_point(trainer, owner))
    summary = TrainingSummary(
        rows_in=len(rows),
        rows_used=len(encoded),
        rejects=tuple(rejects),
        steps=trainer.state.global_step,
        log=tuple(trainer.state.log_history),
        tokens_per_row=sum(len(row["input_ids"]) for row in encoded) / len(encoded),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        extra=data.facts,
    )
    weights = whole_adapter(trainer, settings.optimiser)
    if trainer.is_world_process_zero():
        publish(model, job.adapter_out, job.out, summary, weights)
        if settings.merged_export:
            export_merged(job, tokenizer)
    return summary


@dataclass(frozen=True)
class Prepared:
    """What the trainer reads."""

    train: Dataset
    # In training order, repeated where an epoch ends [steps * rows of a step].
    evaluation: Dataset | None
    steps: int
    facts: dict[str, Any]
    # Rows held out and sequences packed, for the manifest; empty where neither was asked for.


def prepare(encoded: Sequence[dict[str, Any]], settings: SupervisedSettings, workers: int) -> Prepared:
    """Split, pack and order encoded rows. Raises ConfigError if the evaluation's share leaves one side empty."""
    train, held_out = split_for_evaluation(encoded, settings.evaluation.share, settings.optimiser.seed)
    if not train or (settings.evaluation.share > 0 and not held_out):
        raise ConfigError(
            f"evaluation.share {settings.evaluation.share} leaves {len(train)} rows to train on and {len(held_out)} to "
            f"evaluate on, of {len(encoded)}; change the share or use more rows"
        )
    facts: dict[str, Any] = {"rows_held_out": len(held_out)} if held_out else {}
    sequences = [_tokens(row) for row in train]
    if settings.packing:
        sequences = packed(train, settings.max_length)
        facts["sequences"] = len(sequences)
    steps = total_steps(len(sequences), settings, workers)
    lengths = [len(row["input_ids"]) for row in sequences]
    order = training_order(lengths, rows_per_step(settings, workers), steps, settings.optimiser.seed)
    evaluation = Dataset.from_list([_tokens(row) for row in held_out]) if held_out else None
    return Prepared(Dataset.from_list(sequences).select(order), evaluation, steps, facts)


def _tokens(row: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


def supervised_arguments(job: SupervisedJob, data: Prepared) -> SFTConfig:
    """TRL's arguments. Rows come encoded, ordered and packed: TRL shuffles, cuts and packs nothing."""
    settings, evaluation = job.settings, job.settings.evaluation
    arguments = {
        **common_arguments(settings.optimiser, job.out),
        **checkpoint_arguments(settings.checkpoint_steps),
        "max_steps": data.steps,
        "train_sampling_strategy": "sequential",
        "warmup_steps": round(settings.optimiser.warmup_ratio * data.steps),
        "max_length": None,
        "packing": False,
        "padding_free": settings.packing,
        **sharding_arguments(settings.optimiser, settings.gradient_checkpointing),
    }
    if data.evaluation is not None:
        arguments |= {"eval_strategy": "steps", "eval_steps": evaluation.every, "metric_for_best_model": "eval_loss"}
        arguments |= {"per_device_eval_batch_size": settings.optimiser.batch_size, "greater_is_better": False}
    if evaluation.patience is not None:
        # The best weights can be published only if a checkpoint was made where they were measured.
        arguments |= {"save_steps": evaluation.every, "load_best_model_at_end": True}
        arguments |= {"restore_callback_states_from_checkpoint": True}
    return SFTConfig(**arguments)


def early_stop(evaluation: EvaluationSettings) -> list[TrainerCallback]:
    """The callback that stops after `patience` evaluations without improvement, if that is wanted."""
    return [] if evaluation.patience is None else [EarlyStoppingCallback(evaluation.patience)]


def export_merged(job: SupervisedJob, tokenizer: Any) -> None:
    """Base and adapter as one model; from the unquantised base, since merging into 4 bits would lose the adapter."""
    merged = load_model(job.base, adapter=job.adapter_out, merge=True, four_bit=False)
    merged.save_pretrained(str(job.out / MERGED), safe_serialization=True)
    tokenizer.save_pretrained(str(job.out / MERGED))


def publish(
    model: PeftModel,
    adapter_out: Path,
    out: Path,
    summary: TrainingSummary,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter (safetensors) and the summary; rank 0 only. weights: the whole of a sharded model's."""
    # A reference policy beside it (GRPO with a KL term) is no part of what was trained.
    chosen = ["default"]
    model.save_pretrained(str(adapter_out), safe_serialization=True, selected_adapters=chosen, state_dict=weights)
    # PEFT writes the base's absolute path; the artifact must mean the same on any machine.
    config_file = adapter_out / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = None
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True))
    (out / SUMMARY).write_text(summary.model_dump_json(indent=1))
