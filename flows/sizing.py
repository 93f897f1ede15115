"""What a recipe's model takes: for `agentflow plan`. In: a recipe and a GPU. Out: lines for people.

Counts are exact (meta device); memory and hours are estimates whose assumptions are printed (training.sizing). Nothing
is downloaded and no weight is loaded.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agentflow.errors import ConfigError, InputError
from agentflow.models.shapes import Structure
from agentflow.training import sizing
from agentflow.training.config import OptimiserSettings
from agentflow.training.sizing import GIB, GPUS, Gpu, Load
from flows.estimating import training_questions
from flows.recipe import Recipe

SIZED = ("sft", "cold_start", "grpo", "evaluate")
# Stages that hold the model while they train or sample. The loss filter holds it too, and less than `evaluate`.

PROMPT_TOKENS = 256
# Of a question with its prompt, where completions are sampled: assumed.
DECODED_TOGETHER = 48
# Rows, the default of `decode_batch` in the resources.


@dataclass(frozen=True)
class Need:
    """What a stage needs on one worker."""

    stage: str
    setting: str
    # In words: rows, tokens, how the base is held.
    parts: dict[str, float]
    # Bytes.
    load: Load | None = None
    # None where nothing is trained.

    @property
    def bytes(self) -> float:
        return sizing.total(self.parts)


def gpu_called(name: str) -> Gpu:
    """The GPU of the table; raises ConfigError with those there are."""
    found = {known.lower().replace("-", ""): gpu for known, gpu in GPUS.items()}.get(name.lower().replace("-", ""))
    if found is None:
        raise ConfigError(f"no GPU called {name!r} in the table; there are {', '.join(GPUS)}")
    return found


def size_lines(recipe: Recipe, gpu: Gpu, stages: Collection[str], workers: int = 1, row_tokens: int = 400) -> list[str]:
    """Parameters; memory, tokens and hours of those `stages` that train or sample; what would make fit what does not.

    Empty if none of them does.
    """
    if not set(SIZED) & set(stages):
        return []
    try:
        with _without_noise():
            structure = _measured(recipe)
    except InputError as error:
        return [f"sizes are not known: {error}"]
    lines = [_parameters(recipe, structure), _assumptions(gpu)]
    for need in needs(recipe, structure, workers):
        if need.stage in stages:
            lines += memory_lines(need, gpu, structure)
    times = _times(recipe, structure, gpu, workers, row_tokens)
    return lines + [f"time   {stage:10} {said}" for stage, said in times if stage in stages]


def _measured(recipe: Recipe) -> Structure:
    # Here, since torch and its relatives take seconds to load, and most plans have nothing to size.
    from agentflow.models.structure import config_of, measure
    from agentflow.training.placing import lora_config

    return measure(config_of(recipe.base_model.source), lora_config(recipe.sft.settings.lora))


@contextmanager
def _without_noise() -> Iterator[None]:
    """What the libraries say about kernels and fields to come concerns nobody who only counts."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)


def _parameters(recipe: Recipe, structure: Structure) -> str:
    source: Any = recipe.base_model.source
    name = getattr(source, "id", None) or getattr(source, "package", None) or source.kind
    share = structure.trainable / structure.parameters
    return (
        f"size   {name}: {structure.parameters:,} parameters, {structure.trainable:,} trained ({share:.2%}: LoRA "
        f"r {recipe.sft.settings.lora.rank})"
    )


def _assumptions(gpu: Gpu) -> str:
    return (
        f"size   on {gpu.name}: {gpu.memory_gib:g} GiB, {gpu.tflops:g} TFLOPS bf16 dense, {gpu.bandwidth:g} GB/s; "
        f"assumed: {sizing.UTILISATION:.0%} of the peak in training ({sizing.NF4_UTILISATION:.0%} with NF4), "
        f"{sizing.DECODE_UTILISATION:.0%} of the bandwidth in decoding, at least {sizing.LAYER_S * 1e3:g} ms a layer"
    )


def needs(recipe: Recipe, structure: Structure, workers: int) -> list[Need]:
    """What every training and the sampling of the recipe needs on one worker."""
    found = []
    if recipe.upto != "data":
        found.append(_supervised(recipe, "sft", structure, workers))
        if recipe.trained_upto != "sft":
            found.append(_supervised(recipe, "cold_start", structure, workers))
        if recipe.trained_upto == "grpo":
            found += _policy(recipe, structure, workers)
    if recipe.upto == "evaluation" and recipe.evaluate:
        tokens = PROMPT_TOKENS + max(config.generation.max_new_tokens for config in recipe.evaluate)
        four_bit = recipe.base_model.four_bit
        setting = f"{DECODED_TOGETHER} rows of {tokens} tokens, {'NF4' if four_bit else 'bf16'} base"
        held = Load(DECODED_TOGETHER, tokens, OptimiserSettings(), four_bit=four_bit, prepared=False)
        sampling = sizing.decode_memory(structure, DECODED_TOGETHER, tokens)
        found.append(Need("evaluate", setting, {"weights": sizing.weight_bytes(structure, held), **sampling}))
    return found


def _supervised(recipe: Recipe, stage: str, structure: Structure, workers: int) -> Need:
    settings = recipe.sft.settings if stage == "sft" else recipe.cold_start.settings
    load = Load(
        rows=settings.optimiser.batch_size,
        tokens=settings.max_length,
        optimiser=settings.optimiser,
        four_bit=settings.four_bit or recipe.base_model.four_bit,
        checkpointing=settings.gradient_checkpointing,
        dropout=settings.lora.dropout > 0,
        workers=workers,
    )
    return _need(stage, load, structure)


def _need(stage: str, load: Load, structure: Structure) -> Need:
    base = "NF4 base" if load.four_bit else "bf16 base"
    how = f"{load.rows} rows of {load.tokens} tokens, {base}"
    how += ", gradient checkpointing" if load.checkpointing else ""
    if load.optimiser.sharding != "none":
        how += f", {load.optimiser.sharding} over {load.workers} workers"
    return Need(stage, how, sizing.training_memory(structure, load), load)


def _policy(recipe: Recipe, structure: Structure, workers: int) -> Iterator[Need]:
    config = recipe.grpo
    tokens = PROMPT_TOKENS + config.generation.max_new_tokens
    load = Load(
        rows=config.optimiser.batch_size,
        tokens=tokens,
        optimiser=config.optimiser,
        four_bit=recipe.base_model.four_bit,
        prepared=False,
        checkpointing=config.gradient_checkpointing,
        dropout=recipe.sft.settings.lora.dropout > 0,
        workers=workers,
    )
    yield _need("grpo", load, structure)
    rows = _decoded(recipe)
    held = {k: v for k, v in sizing.training_memory(structure, load).items() if k not in ("activations", "logits")}
    base = "NF4" if load.four_bit else "bf16"
    if not load.four_bit:
        held["weights kept aside"] = structure.linear * float(load.precision)  # while the adapter is folded in
    setting = f"while sampling: {rows} rows of {tokens} tokens, {base} base"
    yield Need("grpo", setting, {**held, **sizing.decode_memory(structure, rows, tokens)})


def _decoded(recipe: Recipe) -> int:
    return min(DECODED_TOGETHER, recipe.grpo.optimiser.batch_size * recipe.grpo.optimiser.accumulation)


def memory_lines(need: Need, gpu: Gpu, structure: Structure) -> list[str]:
    """One line with all parts in GiB; a second with what would make it fit, if it does not."""
    parts = " + ".join(f"{name} {size / GIB:.2f}" for name, size in need.parts.items())
    fits = need.bytes <= gpu.memory_gib * GIB
    verdict = "fits" if fits else f"DOES NOT FIT into {gpu.memory_gib:g} GiB"
    whole = f"{parts} + overhead {sizing.OVERHEAD_BYTES / GIB:.1f} = {need.bytes / GIB:.1f} GiB"
    line = f"memory {need.stage:10} ({need.setting}) {whole}: {verdict}"
    return [line] if fits else [line, f"       {need.stage:10} {remedy(need, gpu, structure)}"]


def remedy(need: Need, gpu: Gpu, structure: Structure) -> str:
    """What would make it fit: the first of the changes below that is enough, cheapest first; else larger GPUs."""
    cards = [other.name for other in GPUS.values() if need.bytes <= other.memory_gib * GIB]
    larger = f"as it is it fits on {', '.join(cards)}" if cards else "as it is it fits on no GPU of the table"
    if need.load is None:
        held = "" if "NF4" in need.setting else "with --set base_model.four_bit=true, or "
        return f"{larger}; or {held}fewer rows at a time (decode_batch in the resources)"
    section = "grpo" if need.stage == "grpo" else f"{need.stage}.settings"
    for settings, load in changes(need.load, section):
        changed = _need(need.stage, load, structure)
        if changed.bytes <= gpu.memory_gib * GIB:
            return f"fits with {settings} ({changed.bytes / GIB:.1f} GiB); {larger}"
    return f"no change of rows, precision or sharding up to 8 workers is enough; {larger}"


def changes(load: Load, section: str) -> Iterator[tuple[str, Load]]:
    """Ways to need less memory, as settings, each with what came before: first those with the same result."""
    settings: list[str] = []
    if not load.checkpointing:
        load = replace(load, checkpointing=True)
        settings.append(f"--set {section}.gradient_checkpointing=true")
        yield " ".join(settings), load
    samples, batch = load.rows * load.optimiser.accumulation, ""
    while load.rows % 2 == 0:
        load = replace(load, rows=load.rows // 2)
        batch = f"--set {section}.optimiser.batch_size={load.rows} "
        batch += f"--set {section}.optimiser.accumulation={samples // load.rows}"
        yield " ".join([*settings, batch]), load
    settings += [batch] if batch else []
    if not load.four_bit and section != "grpo":
        load = replace(load, four_bit=True)
        settings.append(f"--set {section}.four_bit=true (another result)")
        yield " ".join(settings), load
    if section == "grpo":
        return
    split: OptimiserSettings = load.optimiser.model_copy(update={"sharding": "fsdp2"})
    for workers in (2, 4, 8):
        extra = f"--set {section}.optimiser.sharding=fsdp2 and {workers} workers (lower accumulation in step)"
        yield " ".join([*settings, extra]), replace(load, optimiser=split, workers=workers)


def _times(recipe: Recipe, structure: Structure, gpu: Gpu, workers: int, row_tokens: int) -> Iterator[tuple[str, str]]:
    """Every training with its tokens and GPU hours, in words."""
    questions = training_questions(recipe.questions.source)
    rows = None if questions is None else questions * recipe.traces.samples
    if recipe.upto == "data":
        return
    stages = [("sft", recipe.sft.settings, rows)]
    if recipe.trained_upto != "sft":
        stages.append(("cold_start", recipe.cold_start.settings, recipe.cold_start.n_samples))
    for stage, settings, count in stages:
        mean = min(row_tokens, settings.max_length)
        per_step = settings.optimiser.batch_size * settings.optimiser.accumulation * workers
        if settings.max_steps is not None:
            tokens, how = settings.max_steps * per_step * mean, f"{settings.max_steps} steps of {per_step} rows"
        elif count is not None:
            tokens, how = round(count * mean * settings.epochs), f"{settings.epochs:g} epochs of at most {count:,} rows"
        else:
            yield stage, "not known before the questions are read"
            continue
        load = _supervised(recipe, stage, structure, workers).load
        assert load is not None
        hours = sizing.training_hours(structure, gpu, load, tokens, mean)
        yield stage, f"{how}, {mean} tokens a row (assumed): {tokens:,} tokens, {_hours(hours)} on {gpu.name}"
    if recipe.trained_upto == "grpo":
        yield "grpo", _policy_time(recipe, structure, gpu, workers)


def _policy_time(recipe: Recipe, structure: Structure, gpu: Gpu, workers: int) -> str:
    config = recipe.grpo
    samples = config.optimiser.batch_size * config.optimiser.accumulation
    length = config.generation.max_new_tokens
    tokens = config.steps * samples * workers * (PROMPT_TOKENS + length)
    four_bit = recipe.base_model.four_bit
    load = Load(config.optimiser.batch_size, PROMPT_TOKENS + length, config.optimiser, four_bit=four_bit)
    learning = sizing.training_hours(structure, gpu, load, tokens, PROMPT_TOKENS + length)
    rows = _decoded(recipe)
    steps = config.steps * workers * length * -(-samples // rows)
    weights = sizing.weight_bytes(structure, replace(load, prepared=False))
    sampling = sizing.decode_hours(structure, gpu, rows, steps, PROMPT_TOKENS + length, weights)
    return (
        f"{config.steps} steps of {samples * workers} samples, {PROMPT_TOKENS} prompt tokens "
        f"(assumed), {length} each at most: {tokens:,} tokens, {_hours(learning + sampling)} on {gpu.name} "
        f"({_hours(sampling)} of it decoding, {rows} rows at a time; waiting for tools not counted)"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.1f} GPU hours" if hours >= 1 else f"{hours * 60:,.1f} GPU minutes"
