"""Training on a GPU, measured: SFT tokens a second, MFU and peak memory, and a GRPO step. Needs nothing from outside.

In: one CUDA GPU. The model has Qwen3-1.7B's shape (agentflow.models.shapes) and random weights, its tokenizer is the
tiny model's, the rows are generated: speed depends on shapes, not on what the weights know. Both go through our own
training (`train_supervised`, `train_policy`), LoRA r 16 on all linear layers, bfloat16. Where a batch does not fit,
half of it goes through at once and the row says so.

MFU = model FLOPs a second / the GPU's dense bfloat16 peak. Model FLOPs of a token: 4 N for the frozen weights that are
multiplied with (2 N forward, 2 N for the gradients that pass through; they need none of their own), 6 for each adapter
weight, and causal attention (training.sizing.training_flops). The usual 6 N, which counts gradients that LoRA does not
compute, is printed beside it. Steps before `WARM` are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from agentflow.models.shapes import Structure
from agentflow.records import Segment
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import SupervisedJob, TrainingSummary
from agentflow.training.sizing import GPUS, Gpu, training_flops
from benchmarks.row import Row
from benchmarks.train import PROMPT, grpo_job, seconds

SHAPE = "Qwen/Qwen3-1.7B"
WARM = 3
# Steps that are not counted: kernels are chosen and memory is taken in them.
ROWS_IN_A_PACK = 10
MFU_TARGET = 0.40
SPEED = "SFT, {how}, {tokens} tokens: tokens a second"
GRPO = "GRPO step, 16 completions of at most {tokens} tokens, decoded by our engine"


@dataclass(frozen=True)
class Way:
    """How a training is set up."""

    name: str
    packing: bool = True
    recompute: bool = False
    # Gradient checkpointing.
    four_bit: bool = False
    compiled: bool = False
    dropout: float = 0.0
    # Of the adapters. The recipes' 0.05 draws a mask for each of seven projections and keeps what it masked.
    times: int = 1
    # As many sequences in a step as the setting says, times this.
    judged: bool = False
    # Whether its MFU has to reach the target.


WAYS = (
    Way("LoRA, packed, compiled layers", compiled=True, times=2, judged=True),
    Way("LoRA, full rows, compiled layers", packing=False, compiled=True, judged=True),
    Way("LoRA with dropout 0.05, packed, compiled layers", compiled=True, dropout=0.05),
    Way("LoRA, packed"),
    Way("LoRA, packed, gradient checkpointing", recompute=True),
    Way("QLoRA, packed, gradient checkpointing", recompute=True, four_bit=True),
)
# Recomputed activations and unpacked weights are work that MFU does not count.


@dataclass(frozen=True)
class Setting:
    """How much is measured; smaller in tests."""

    tokens: int = 2048
    # Of a training sequence.
    sequences: int = 16
    # In a step, and in a forward pass where they fit.
    steps: int = 12
    completion: int = 256
    # Tokens of a GRPO completion.


def rows() -> Iterator[Row]:
    """SFT in several ways, then GRPO; not run where there is no GPU."""
    import torch

    from agentflow.models.structure import shaped

    setting = Setting()
    if not torch.cuda.is_available():
        yield from not_run(setting, f"torch {torch.__version__} sees no CUDA GPU")
        return
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as name:
        yield from measured(Path(name), shaped(SHAPE), setting)


def not_run(setting: Setting, reason: str) -> Iterator[Row]:
    """The same rows without numbers."""
    for way in WAYS:
        what = SPEED.format(tokens=setting.tokens, how=way.name)
        yield Row.not_run(what, "", "tokens/s", reason)
        yield Row.not_run(what.replace("tokens a second", "MFU"), target_of(way), "share", reason)
        yield Row.not_run(what.replace("tokens a second", "peak memory"), "", "GiB", reason)
    yield Row.not_run(GRPO.format(tokens=setting.completion), "", "s", reason)


def measured(folder: Path, config: Any, setting: Setting) -> Iterator[Row]:
    """All rows for a model of this configuration, on the GPU if there is one."""
    from agentflow.models.structure import measure
    from agentflow.training.placing import lora_config

    base = make_base(folder, config)
    structure = measure(config, lora_config(LoraSettings()))
    for number, way in enumerate(WAYS):
        yield from sft_rows(folder / f"way-{number}", base, structure, setting, way)
    yield grpo_row(folder, base, setting)


def make_base(folder: Path, config: Any) -> Path:
    """A base model's folder: random weights of this configuration, the tiny model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from agentflow.models.loading import convert, load_tokenizer
    from agentflow.models.sources import TinyModel

    base = folder / "base"
    base.mkdir(parents=True)
    convert(TinyModel(), base)
    tokenizer = load_tokenizer(base)
    config.update({name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    with torch.device("cuda" if gpu else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if gpu else torch.float32)
    model.save_pretrained(base)
    return base


# ---------------------------------------------------------------- SFT
def sft_rows(folder: Path, base: Path, structure: Structure, setting: Setting, way: Way) -> Iterator[Row]:
    """Tokens a second, MFU and peak memory of one way to train."""
    from agentflow.training.placing import attention_kernel

    job, times, summary = largest_that_fits(folder, base, setting, way)
    optimiser = job.settings.optimiser
    kernel = attention_kernel(optimiser, way.packing) or "auto"
    how = f"{optimiser.batch_size} x {optimiser.accumulation} sequences a step, attention {kernel}"
    seen = [entry["num_tokens"] for entry in summary.log if "num_tokens" in entry]
    step_tokens = (seen[-1] - seen[WARM - 1]) / (len(seen) - WARM)
    speed = step_tokens / median(times.seconds[WARM:])
    what = SPEED.format(tokens=setting.tokens, how=way.name)
    yield Row.done(what, "", round(speed), "tokens/s", True, f"{how}, {step_tokens:,.0f} tokens a step")
    # What a row's tokens attend to is the row, also in a pack.
    length = setting.tokens // ROWS_IN_A_PACK if way.packing else setting.tokens
    yield mfu_row(what.replace("tokens a second", "MFU"), speed, structure, length, target_of(way))
    yield memory_row(what.replace("tokens a second", "peak memory"))


def largest_that_fits(
    folder: Path, base: Path, setting: Setting, way: Way
) -> tuple[SupervisedJob, StepTimes, TrainingSummary]:
    """Train with all sequences of a step in one pass, or with the largest power of two of them that the GPU holds."""
    import torch

    from agentflow.training.supervised import train_supervised

    together = setting.sequences * way.times
    while True:
        job, times = sft_job(folder / f"{together}", base, setting, way, together), StepTimes()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            # transformers' callbacks go by their methods' names, so this needs no class of theirs.
            return job, times, train_supervised(job, [times.callback()])
        except torch.OutOfMemoryError:
            if together == 1:
                raise
            together //= 2


def sft_job(folder: Path, base: Path, setting: Setting, way: Way, together: int) -> SupervisedJob:
    """A job on generated rows: problems of a tenth of a sequence to pack, or rows that fill a sequence alone."""
    import torch
    from datasets import Dataset

    settings = SupervisedSettings(
        lora=LoraSettings(dropout=way.dropout),
        optimiser=OptimiserSettings(batch_size=together, accumulation=setting.sequences * way.times // together),
        max_steps=setting.steps,
        max_length=setting.tokens,
        packing=way.packing,
        checkpoint_steps=10**6,
        gradient_checkpointing=way.recompute,
        four_bit=way.four_bit,
        compile_layers=way.compiled and torch.cuda.is_available(),
    )
    Dataset.from_list(training_rows(base, setting, way)).save_to_disk(str(folder / "rows"))
    return SupervisedJob(settings=settings, prompt=PROMPT, rows=folder / "rows", base=base, out=folder / "sft")


def training_rows(base: Path, setting: Setting, way: Way) -> list[dict[str, Any]]:
    """Rows in the columns a training reads, of a tenth of a sequence or of exactly one."""
    from agentflow.models.loading import load_tokenizer, tokenize_with
    from agentflow.training.encoding import encode_rows

    tokenizer = load_tokenizer(base)

    def row(number: int, words: int) -> dict[str, Any]:
        text = Segment("text", text=" 7" * words)
        return {
            "id": f"{number}", "question_id": f"{number}", "question": "How many?", "answer": "7",
            "segments": [text.to_row()],
        }  # fmt: skip

    def length(words: int) -> int:
        encoded, _ = encode_rows([row(0, words)], PROMPT, 10**9, tokenize_with(tokenizer), tokenizer.eos_token_id)
        return len(encoded[0]["input_ids"])

    short, each = length(10), (length(20) - length(10)) / 10
    wanted = setting.tokens // ROWS_IN_A_PACK if way.packing else setting.tokens
    words = max(1, 10 + int((wanted - short) / each))
    count = setting.sequences * way.times * (12 if way.packing else 2)
    # Rows to pack are between half and one and a half times as long, so packs differ as real ones do.
    return [
        row(number, words // 2 + words * (number * 37 % 101) // 101 if way.packing else words)
        for number in range(count)
    ]


class StepTimes:
    """Seconds of every optimiser step, with the GPU's work done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        # From the end of a step to the end of the next: loading its rows is part of it.
        self._ended = 0.0

    def callback(self) -> Any:
        """A trainer callback that fills `seconds`."""
        import torch
        from transformers import TrainerCallback

        outer = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                outer._ended = time.monotonic()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.monotonic()
                outer.seconds.append(now - outer._ended)
                outer._ended = now

        return Callback()


def target_of(way: Way) -> str:
    """Of its MFU; "" where none is set."""
    return f"≥ {MFU_TARGET:.0%}" if way.judged else ""


def mfu_row(what: str, speed: float, structure: Structure, tokens: int, target: str) -> Row:
    """Model FLOPs utilisation, where the GPU's peak is known."""
    gpu = this_gpu()
    if gpu is None:
        return Row.not_run(what, target, "share", f"the peak of {gpu_name()} is not in the table of training.sizing")
    peak = gpu.tflops * 1e12
    share = speed * training_flops(structure, tokens) / peak
    usual = speed * 6 * structure.parameters / peak
    reason = f"4 N + attention + adapter, over {gpu.tflops:g} TFLOPS ({gpu.name}); by 6 N it would be {usual:.1%}"
    return Row.done(what, target, round(share, 4), "share", not target or share >= MFU_TARGET, reason)


def memory_row(what: str) -> Row:
    """Peak of what torch took from the GPU."""
    import torch

    if not torch.cuda.is_available():
        return Row.not_run(what, "", "GiB", "measured on a GPU only")
    peak = torch.cuda.max_memory_allocated() / 2**30
    return Row.done(what, "", round(peak, 2), "GiB", True, f"allocated by torch on {gpu_name()}")


def gpu_name() -> str:
    """What the driver calls the GPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"


def this_gpu() -> Gpu | None:
    """The GPU of this process in the table, None if it is not there."""
    plain = gpu_name().replace(" ", "").upper()
    words = {
        "H100": ("H100",),
        "H200": ("H200",),
        "A100-80": ("A100", "80GB"),
        "L40S": ("L40S",),
        "RTX4090": ("RTX4090",),
    }
    return next((gpu for name, gpu in GPUS.items() if all(word in plain for word in words[name])), None)


# ---------------------------------------------------------------- GRPO
def grpo_row(folder: Path, base: Path, setting: Setting) -> Row:
    """Seconds of a step by the trainer's own clock, generation included."""
    import torch

    from agentflow.training.policy import train_policy

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    job = grpo_job(folder, base, setting.completion)
    summary = train_policy(job)
    took = seconds(summary.log) / summary.steps
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
    written = [entry["completions/mean_length"] for entry in summary.log if "completions/mean_length" in entry]
    reason = f"{gpu_name()}, mean of {summary.steps} steps, {written[-1]:.0f} tokens a completion at the end{peak}"
    return Row.done(GRPO.format(tokens=setting.completion), "", round(took, 2), "s", True, reason)
