"""SFT and cold start: encoded rows in, a LoRA adapter out, through TRL's SFTTrainer.

Rows are encoded by our one mask function into `input_ids` and `labels`, which TRL takes as they are: it masks and cuts
nothing. Runs plain, under torchrun and under Ray Train alike (`train_supervised(job)` in every worker).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from agentflow.errors import ConfigError
from agentflow.mask import encode
from agentflow.models.loading import load_model, load_tokenizer, resolve, tokenize_with
from agentflow.progress import Progress
from agentflow.records import Segment, Span
from agentflow.rendering import completion_spans, prompt_head, prompt_turn
from agentflow.toolset import syntax_for
from agentflow.training.callbacks import ProgressCallback, assert_world_size
from agentflow.training.config import OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SUMMARY, SupervisedJob, TrainingSummary


def encode_rows(
    rows: Sequence[dict[str, Any]], job: SupervisedJob, tokenizer: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows as {"input_ids", "labels"} and the rejects (too_long, nothing_to_train) as {"key", "reason", "detail"}."""
    syntax, tokenize = syntax_for(job.prompt.syntax), tokenize_with(tokenizer)
    # Head and turn apart, as generation and the loss filter read them.
    head = Span("prompt", prompt_head(job.prompt))
    encoded, rejects = [], []
    for row in rows:
        turn = Span("prompt", prompt_turn(row["question"], job.prompt))
        segments = [Segment.from_row(segment) for segment in row["segments"]]
        spans = [head, turn, *completion_spans(segments, row["answer"], syntax)]
        tokens = encode(spans, tokenize, end_id=tokenizer.eos_token_id)
        if len(tokens.input_ids) > job.settings.max_length:
            detail = f"{len(tokens.input_ids)} tokens, at most {job.settings.max_length}"
            rejects.append({"key": row["id"], "reason": "too_long", "detail": detail})
        elif tokens.trained == 0:
            rejects.append({"key": row["id"], "reason": "nothing_to_train", "detail": "no model-written token"})
        else:
            encoded.append({"input_ids": tokens.input_ids, "labels": tokens.labels})
    return encoded, rejects


def _load_rows(job: SupervisedJob) -> list[dict[str, Any]]:
    rows = load_from_disk(str(job.rows)).to_list()
    if job.row_ids is None:
        return rows
    by_id = {row["id"]: row for row in rows}
    return [by_id[row_id] for row_id in job.row_ids]


def trainable_model(base: Path, adapter: Path | None, settings: SupervisedSettings) -> PeftModel:
    """The base with a trainable adapter: the given one, or a new one by `settings.lora`."""
    if settings.four_bit:
        name, revision = resolve(base)
        quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, quantization_config=quantisation, trust_remote_code=False
        )
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=settings.gradient_checkpointing)
        if adapter is not None:
            return PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    elif adapter is not None:
        return load_model(base, adapter=adapter, trainable=True)
    else:
        model = load_model(base)
    lora = settings.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        ),
    )


def common_arguments(optimiser: OptimiserSettings, out: Path) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments` that SFT and GRPO share.

    On CPU training is fp32: bf16 is emulated there and slow.
    """
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out / "trainer"),
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": optimiser.schedule,
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.max_grad_norm,
        "per_device_train_batch_size": optimiser.batch_size,
        "gradient_accumulation_steps": optimiser.accumulation,
        "seed": optimiser.seed,
        "bf16": gpu,
        "use_cpu": not gpu,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": ["tensorboard"],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


LENGTH_BUCKET = 16
# Tokens. Rows are grouped by length to this accuracy: less padding, while a batch still mixes templates.


def training_order(lengths: Sequence[int], per_step: int, steps: int, seed: int) -> list[int]:
    """Row indices in the order they are trained on [steps * per_step].

    Shuffled anew each epoch, each step's rows of similar length. Ours, since transformers' length grouping sorts a
    small data set as a whole, longest first. It depends on nothing but its arguments, so a run has the same order on
    any number of workers.
    """
    random = Random(seed)
    order: list[int] = []
    while len(order) < steps * per_step:
        rows = list(range(len(lengths)))
        random.shuffle(rows)
        rows.sort(key=lambda i: lengths[i] // LENGTH_BUCKET)
        # The remainder that fills no step is carried by wrapping around, so that no row is left out of an epoch.
        rows += rows[: -len(rows) % per_step]
        batches = [rows[i : i + per_step] for i in range(0, len(rows), per_step)]
        random.shuffle(batches)
        order += [row for batch in batches for row in batch]
    return order[: steps * per_step]


def total_steps(rows: int, settings: SupervisedSettings, workers: int) -> int:
    """Optimiser steps of a run (each on batch_size * accumulation * workers rows; a last partial one counts)."""
    if settings.max_steps is not None:
        return settings.max_steps
    return math.ceil(rows * settings.epochs / rows_per_step(settings, workers))


def rows_per_step(settings: SupervisedSettings, workers: int) -> int:
    """Rows of one optimiser step, over all workers."""
    return settings.optimiser.batch_size * settings.optimiser.accumulation * workers


def train_supervised(job: SupervisedJob) -> TrainingSummary:
    """Train and write `job.out` (rank 0). Raises ConfigError if no row can be trained on."""
    settings = job.settings
    torch.manual_seed(settings.optimiser.seed)
    tokenizer = load_tokenizer(job.base)
    rows = _load_rows(job)
    encoded, rejects = encode_rows(rows, job, tokenizer)
    if not encoded:
        raise ConfigError(
            f"none of {len(rows)} rows can be trained on: {rejects[:3]}; raise max_length or look at the rows"
        )
    model = trainable_model(job.base, job.adapter, settings)
    steps = total_steps(len(encoded), settings, job.workers)
    lengths = [len(row["input_ids"]) for row in encoded]
    order = training_order(lengths, rows_per_step(settings, job.workers), steps, settings.optimiser.seed)
    arguments = SFTConfig(
        **common_arguments(settings.optimiser, job.out),
        max_steps=steps,
        train_sampling_strategy="sequential",
        warmup_steps=round(settings.optimiser.warmup_ratio * steps),
        max_length=None,
        packing=False,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(encoded).select(order),
        processing_class=tokenizer,
        callbacks=[ProgressCallback(Progress(job.progress, "steps"))],
    )
    assert_world_size(trainer, job.workers)
    trainer.train()
    summary = TrainingSummary(
        rows_in=len(rows),
        rows_used=len(encoded),
        rejects=tuple(rejects),
        steps=trainer.state.global_step,
        log=tuple(trainer.state.log_history),
        tokens_per_row=sum(lengths) / len(lengths),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    if trainer.is_world_process_zero():
        publish(model, job.adapter_out, job.out, summary)
    return summary


def publish(model: PeftModel, adapter_out: Path, out: Path, summary: TrainingSummary) -> None:
    """Write the adapter (safetensors) and the summary; rank 0 only."""
    model.save_pretrained(str(adapter_out), safe_serialization=True)
    # PEFT writes the base's absolute path; the artifact must mean the same on any machine.
    config_file = adapter_out / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = None
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True))
    (out / SUMMARY).write_text(summary.model_dump_json(indent=1))
