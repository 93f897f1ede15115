"""Training, measured: SFT and a single-turn GRPO step against bare TRL, tool turns against TRL's own tool loop.

In: a quiet machine. The model is the demo's SmolLM2-135M where its package is installed, else a small random Llama (the
row's reason says which). Both sides get the same model, the same encoded rows in the same order and the same settings;
they alternate, and what is compared is the median of the pairs. Both checkpoint at the same steps. Speeds count what
the trainer's own clock counts (`train_runtime`): loading is left out, our callbacks and sealing checkpoints are not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from agentflow.access import Access
from agentflow.errors import InputError
from agentflow.models.settings import GenerationConfig
from agentflow.models.sources import PackagedGguf, TinyModel
from agentflow.records import Segment, Span, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, completion_spans, prompt_text
from agentflow.sources.source import GeneratedSource, load_questions
from agentflow.stages.grpo import GrpoConfig
from agentflow.stages.traces import recorded_traces
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import PolicyJob, SupervisedJob, TrainingSummary
from benchmarks.row import Row

PAIRS = 5
SFT_STEPS = 8
GRPO_STEPS = 2
SAMPLES = 32
LATENCY_S = 0.5
PROMPT = PromptConfig()
SOURCE = GeneratedSource(arithmetic_train=64)


def rows() -> Iterator[Row]:
    """Every target's row, in the order they are measured."""
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as name:
        folder = Path(name)
        base, called = make_base(folder)
        yield sft_row(folder, base, called)
        yield grpo_row(folder, base, called)
        yield from tool_rows(folder)


def make_base(folder: Path) -> tuple[Path, str]:
    """A base model's folder, and what to call it."""
    from agentflow.models.loading import convert

    base = folder / "base"
    base.mkdir()
    try:
        source: PackagedGguf | TinyModel = PackagedGguf()
        PackagedGguf().location()
    except InputError:
        source = TinyModel(layers=6, hidden=256)
    convert(source, base)
    return base, "SmolLM2-135M" if isinstance(source, PackagedGguf) else "a random 6-layer Llama"


def compared(what: str, called: str, ours: Callable[[int], float], bare: Callable[[int], float], pairs: int) -> Row:
    """The row of an alternated comparison of two speeds; `ours(i)` and `bare(i)` run once and give a speed."""
    quotients = []
    for i in range(pairs):
        # Who goes first changes, so that a machine that warms up or slows down favours neither.
        first, second = (ours, bare) if i % 2 == 0 else (bare, ours)
        a, b = first(i), second(i)
        quotients.append(a / b if i % 2 == 0 else b / a)
    middle = median(quotients)
    spread = (
        f"{min(quotients):.3f} to {max(quotients):.3f} over {pairs} alternated pairs, {called}, LoRA r 16, CPU fp32"
    )
    return Row.done(what, "≥ 0.97×", round(middle, 3), "×", middle >= 0.97, spread)


# ---------------------------------------------------------------- SFT
def sft_row(folder: Path, base: Path, called: str, pairs: int = PAIRS) -> Row:
    """SFT tokens/s of ours over bare SFTTrainer."""
    job = sft_job(folder, base)
    what = "SFT tokens/s against bare TRL SFTTrainer"
    return compared(what, called, lambda i: ours_sft(job, folder / f"sft-{i}"), lambda i: bare_sft(job, folder), pairs)


def sft_job(folder: Path, base: Path, steps: int = SFT_STEPS) -> SupervisedJob:
    """A supervised job on generated word problems."""
    from datasets import Dataset

    train = [row for row in load_questions(SOURCE).rows if row["split"] == "train"]
    columns = ("id", "question_id", "question", "answer")
    table = [
        {**{name: trace[name] for name in columns}, "segments": [Segment("text", text=trace["reasoning"]).to_row()]}
        for trace in recorded_traces(train).rows
    ]
    Dataset.from_list(table).save_to_disk(str(folder / "rows"))
    optimiser = OptimiserSettings(batch_size=4, accumulation=1)
    settings = SupervisedSettings(lora=LoraSettings(dropout=0.0), optimiser=optimiser, max_steps=steps)
    return SupervisedJob(settings=settings, prompt=PROMPT, rows=folder / "rows", base=base, out=folder / "sft")


def ours_sft(job: SupervisedJob, out: Path) -> float:
    """Tokens a second of our training."""
    from agentflow.training.supervised import train_supervised

    return tokens_per_second(train_supervised(job.model_copy(update={"out": out})).log)


def bare_sft(job: SupervisedJob, folder: Path) -> float:
    """Tokens a second of TRL's SFTTrainer as its documentation uses it, on the same rows in the same order."""
    from datasets import load_from_disk
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from agentflow.models.loading import load_model, load_tokenizer, tokenize_with
    from agentflow.training.encoding import encode_rows
    from agentflow.training.supervised import prepare

    tokenizer = load_tokenizer(job.base)
    table, limit = load_from_disk(str(job.rows)).to_list(), job.settings.max_length
    encoded, _ = encode_rows(table, job.prompt, limit, tokenize_with(tokenizer), tokenizer.eos_token_id)
    lora, optimiser = job.settings.lora, job.settings.optimiser
    trainer = SFTTrainer(
        model=load_model(job.base),
        args=SFTConfig(
            output_dir=str(folder / "bare"), max_steps=job.settings.max_steps or -1, bf16=False, use_cpu=True,
            max_length=None, per_device_train_batch_size=optimiser.batch_size,
            learning_rate=optimiser.learning_rate,
            train_sampling_strategy="sequential", gradient_checkpointing=False, report_to="none",
            save_strategy="steps", save_steps=job.settings.checkpoint_steps, logging_steps=1, disable_tqdm=True,
        ),
        train_dataset=prepare(encoded, job.settings, 1).train,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.train()
    return tokens_per_second(trainer.state.log_history)


def tokens_per_second(log: Sequence[dict[str, Any]]) -> float:
    """From a trainer's log: tokens it saw over seconds it trained."""
    seen = [entry["num_tokens"] for entry in log if "num_tokens" in entry]
    return float(seen[-1]) / seconds(log)


def seconds(log: Sequence[dict[str, Any]]) -> float:
    """Seconds of training by the trainer's own clock."""
    return next(float(entry["train_runtime"]) for entry in log if "train_runtime" in entry)


# ---------------------------------------------------------------- GRPO
def grpo_row(folder: Path, base: Path, called: str, pairs: int = PAIRS, tokens: int = 64) -> Row:
    """GRPO steps a second of ours over bare GRPOTrainer; 16 completions a step, no tool is called."""
    job = grpo_job(folder, base, tokens)
    what = f"single-turn GRPO step (16 completions of ≤ {tokens} tokens) against bare TRL"
    return compared(what, called, lambda i: ours_grpo(job, folder / f"g-{i}"), lambda i: bare_grpo(job, folder), pairs)


def grpo_job(folder: Path, base: Path, tokens: int) -> PolicyJob:
    """A policy job whose adapter is fresh. The syntax offers no tool that a word problem would make it call."""
    from peft import LoraConfig, get_peft_model

    from agentflow.models.loading import load_model
    from agentflow.stages.grpo import choose_prompts

    questions = load_questions(SOURCE).rows
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(max_new_tokens=tokens, temperature=1.0, max_calls=0),
        steps=GRPO_STEPS,
        optimiser=OptimiserSettings(learning_rate=1e-5, batch_size=4, accumulation=4),
    )
    table = folder / "questions"
    save_questions(questions, table)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules=list(LoraSettings().targets), task_type="CAUSAL_LM")
    get_peft_model(load_model(base), settings).save_pretrained(str(folder / "adapter"))
    return PolicyJob(
        config=config,
        questions=table,
        question_ids=tuple(row["id"] for row in choose_prompts(questions, config, workers=1)),
        base=base,
        adapter=folder / "adapter",
        access=Access(ledger_url=f"sqlite:///{folder / 'ledger.db'}", run_id="bench"),
        out=folder / "grpo",
    )


def save_questions(questions: Sequence[dict[str, Any]], folder: Path) -> None:
    """As the artifact keeps them."""
    import pyarrow as pa
    from datasets import Dataset

    from agentflow.schemas import QUESTIONS

    Dataset(pa.Table.from_pylist(list(questions), schema=QUESTIONS)).save_to_disk(str(folder))


def ours_grpo(job: PolicyJob, out: Path) -> float:
    """Steps a second of our training."""
    from agentflow.training.policy import train_policy

    summary: TrainingSummary = train_policy(job.model_copy(update={"out": out}))
    return summary.steps / seconds(summary.log)


def bare_grpo(job: PolicyJob, folder: Path) -> float:
    """Steps a second of TRL's GRPOTrainer with its own generation and the same rewards."""
    from datasets import Dataset, load_from_disk
    from trl import GRPOConfig, GRPOTrainer

    from agentflow.models.loading import load_model, load_tokenizer
    from agentflow.rendering import parse_completion
    from agentflow.rewards.choice import score
    from agentflow.rewards.contract import Attempt, Gold

    config, syntax = job.config, syntax_for(PROMPT.syntax)
    by_id = {row["id"]: row for row in load_from_disk(str(job.questions)).to_list()}
    chosen = [by_id[row_id] for row_id in job.question_ids]

    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float | None]:
        pairs = zip(completions, gold, strict=True)
        return [
            score(config.reward, Attempt(parse_completion(c, syntax)), Gold(g, answer_type="number")).total
            for c, g in pairs
        ]

    optimiser = config.optimiser
    trainer = GRPOTrainer(
        model=load_model(job.base, adapter=job.adapter, trainable=True),
        args=GRPOConfig(
            output_dir=str(folder / "bare"), max_steps=config.steps, bf16=False, use_cpu=True,
            save_strategy="steps", save_steps=config.checkpoint_steps,
            per_device_train_batch_size=optimiser.batch_size, gradient_accumulation_steps=optimiser.accumulation,
            num_generations=config.group_size, max_completion_length=config.generation.max_new_tokens, beta=0.0,
            learning_rate=optimiser.learning_rate, loss_type=config.loss_type, gradient_checkpointing=False,
            report_to="none", logging_steps=1, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": prompt_text(row["question"], PROMPT), "gold": row["answer"]} for row in chosen]
        ),
        processing_class=load_tokenizer(job.base),
        reward_funcs=[reward],
    )  # fmt: skip
    trainer.train()
    return trainer.state.global_step / seconds(trainer.state.log_history)


# ---------------------------------------------------------------- tool turns
class SlowCalculator(Calculator):
    """A calculator that answers after a while, as a search does."""

    latency_s = LATENCY_S

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        """The result, late."""
        import asyncio

        await asyncio.sleep(self.latency_s)
        return await super().call(arguments)


@asynccontextmanager
async def slow_tools(latency_s: float) -> AsyncIterator[ToolBox]:
    """A tool box whose calculator takes `latency_s`."""
    tool = SlowCalculator()
    tool.latency_s = latency_s
    yield ToolBox([tool])


def tool_rows(folder: Path, samples: int = SAMPLES, latency_s: float = LATENCY_S, pairs: int = PAIRS) -> Iterator[Row]:
    """Wall time of one tool turn over all samples, ours and TRL's."""
    model, tokenizer, prompt = caller(folder)
    ours = []
    for _ in range(pairs):
        with_latency = rollout_seconds(model, tokenizer, prompt, samples, latency_s)
        ours.append(with_latency - rollout_seconds(model, tokenizer, prompt, samples, 0.0))
    trl = trl_tool_seconds(samples, latency_s)
    turn = median(ours)
    spread = f"{min(ours):.2f} to {max(ours):.2f} s over {pairs}; rollouts with latency less those without"
    setting = f"{samples} samples, one call each, {latency_s} s a call"
    yield Row.done(
        f"tool turn, wall time ({setting})", f"≤ {1.2 * latency_s:.2f} s", round(turn, 3), "s",
        turn <= 1.2 * latency_s, spread,
    )  # fmt: skip
    yield Row.done(
        f"tool turn against TRL's own tool loop ({setting})",
        "≥ 8×",
        round(trl / turn, 1),
        "×",
        trl / turn >= 8,
        f"TRL's loop, up to the last result: {trl:.1f} s",
    )


def caller(folder: Path) -> tuple[Any, Any, str]:
    """A tiny model taught to answer one prompt with one call; greedy, so every sample calls."""
    import torch

    from agentflow.mask import encode
    from agentflow.models.loading import convert, load_model, load_tokenizer, tokenize_with

    base = folder / "caller"
    base.mkdir()
    convert(TinyModel(), base)
    torch.manual_seed(0)
    model, tokenizer = load_model(base), load_tokenizer(base)
    prompt = prompt_text("1+1?", PROMPT)
    reasoning = [
        Segment("call", call=ToolCall("Calculator", {"expression": "1+1"}), result=ToolResult("2")),
        Segment("text", text=" 2."),
    ]
    spans = [Span("prompt", prompt), *completion_spans(reasoning, "2", syntax_for(PROMPT.syntax))]
    row = encode(spans, tokenize_with(tokenizer), end_id=tokenizer.eos_token_id)
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model, tokenizer, prompt


def rollout_seconds(model: Any, tokenizer: Any, prompt: str, samples: int, latency_s: float) -> float:
    """Seconds for all rollouts with our engine. Raises AssertionError unless every one called once."""
    from agentflow.models.generate import RolloutEngine, ToolRunner

    with ToolRunner(slow_tools(latency_s)) as tools:
        engine = RolloutEngine(model, tokenizer, syntax_for(PROMPT.syntax), tools, GenerationConfig(max_new_tokens=60))
        started = time.monotonic()
        rollouts = engine.run([prompt] * samples, batch_size=samples)
        taken = time.monotonic() - started
    assert all(len(rollout.results) == 1 for rollout in rollouts), "every sample makes one call"
    return taken


class _AllAnswered(Exception):
    """TRL's loop has run every tool and goes on to render the results."""


def trl_tool_seconds(samples: int, latency_s: float) -> float:
    """Seconds TRL's `_tool_call_loop` takes to run one call of each sample; it is left before it generates again."""
    from trl import GRPOTrainer

    def calculator(expression: str) -> str:
        time.sleep(latency_s)
        return "2"

    trainer: Any = object.__new__(GRPOTrainer)
    trainer.max_tool_calling_iterations = 1
    trainer._sync_tool_dicts = [{"calculator": calculator}] * samples
    trainer._async_tool_dicts = [{}] * samples

    def rendering(messages: Any) -> None:
        raise _AllAnswered

    trainer._get_tool_suffix_ids = rendering
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "1+1"}}}
    completions = [[{"role": "assistant", "content": "", "tool_calls": [call]}] for _ in range(samples)]
    prompts = [[{"role": "user", "content": "1+1?"}] for _ in range(samples)]
    ids = [[1]] * samples
    started = time.monotonic()
    try:
        trainer._tool_call_loop(prompts, ids, ids, completions, None, None, {})
    except _AllAnswered:
        return time.monotonic() - started
    raise AssertionError("TRL's tool loop is not what this benchmark was written for (trl 1.16)")
