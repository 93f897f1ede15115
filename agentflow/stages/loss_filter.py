"""loss_filter: TOOL_TRACES + base_model -> FILTERED.

Keeps calls only where they make the rest easier to predict (METHODS A.4).

Paper A's rule: keep (x, r, a) iff L(x, r, a) < L(x, r), strict; a losing sample stays, without its calls.
`losers="drop"` leaves it out. Toolformer's rule judges every call by itself (`weighting="toolformer"`).

    loss_plain 2.1034, loss_with 1.4410, delta 0.6624  ->  decision "kept"
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agentflow.config import Frozen, Where
from agentflow.examples import examples_head
from agentflow.insertion.splice import Insertion, plain_text, splice
from agentflow.records import Outcomes, Reject, Segment
from agentflow.rendering import PromptConfig, completion_spans, prompt_turn
from agentflow.toolset import syntax_for

DECIMALS = 4
# Losses are compared as they are stored: rounded to 1e-4 nats, so a smaller difference is a tie (P5).
TOOLFORMER = {"granularity": "per_call", "baseline": "min", "tau": 1.0, "test": ">="}
# What `weighting="toolformer"` stands for in the fields that are not set beside it [P].


class LossFilterConfig(Frozen):
    """The rule and what the scorer sees."""

    prompt: PromptConfig = PromptConfig()
    # Its `syntax` (compact or json) decides how calls look to the scorer.
    weighting: Literal["uniform", "toolformer"] = "uniform"
    # uniform: mean over the common tokens, calls in place [O]. toolformer: weights (1, .8, .6, .4, .2) / 3 over the
    # five tokens behind a call, calls as a prefix of the reasoning [P]; sets granularity, baseline, tau, test as well.
    granularity: Literal["sample", "per_call"] = "sample"
    # sample: all calls of a row together (paper A). per_call: each on its own, the others not in the text (Toolformer).
    baseline: Literal["no_call", "min"] = "no_call"
    # min: the smaller loss of no call and of the call with an empty result (Toolformer).
    tau: float = Field(0.0, ge=0)
    # Nats a token: calls are kept iff baseline - loss_with > tau (or >= tau, see test).
    test: Literal[">", ">="] = ">"
    losers: Literal["keep_without_calls", "drop"] = "keep_without_calls"
    # Paper A keeps them without calls.
    n_examples: int = Field(2, ge=0, le=2)
    # Worked examples before the question, the same in all arms: without them a model that has never seen the syntax
    # rejects useful calls.
    precision: Literal["float32", "bfloat16"] = "float32"
    # Of the scorer's weights. bfloat16 halves its memory, but losses then differ between batch compositions by far more
    # than 1e-4, and decisions on small differences with them.
    token_budget: Annotated[int, Where()] = Field(1024, ge=64)
    # Padded tokens of one forward pass. 1024 keeps a 2-core machine's caches warm; give a GPU 16384 or more.

    @model_validator(mode="before")
    @classmethod
    def _toolformer_is_a_whole(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("weighting") == "toolformer":
            return {**TOOLFORMER, **data}
        return data


@dataclass(frozen=True)
class Score:
    """Losses of one comparison, nats a token (models.scoring.Loss)."""

    plain: float
    called: float
    n_common: int
    empty: float | None = None
    # With calls but empty results; None unless baseline is "min".

    @property
    def finite(self) -> bool:
        return all(math.isfinite(loss) for loss in (self.plain, self.called, self.empty or 0.0))

    @property
    def delta(self) -> float:
        """Baseline minus loss with calls, of the rounded losses: positive where the calls help."""
        plain = self.plain if self.empty is None else min(self.plain, self.empty)
        return round(round(plain, DECIMALS) - round(self.called, DECIMALS), DECIMALS)


@dataclass(frozen=True)
class RowScore:
    """What a scorer says about one row."""

    sample: Score | None = None
    # None for granularity per_call.
    calls: tuple[Score | None, ...] = ()
    # Per call. For granularity sample the part of the loss up to the next call, for the record only; None where no text
    # stands between two calls.
    refused: tuple[str, str] | None = None
    # (reason, detail) of a row that cannot be scored.

    @property
    def scores(self) -> list[Score]:
        return [score for score in (self.sample, *self.calls) if score is not None]


def shared_prefix(config: LossFilterConfig) -> str:
    """What stands before every prompt, the same in all arms; computed once by the scorer."""
    return examples_head(config.n_examples, config.prompt, syntax_for(config.prompt.syntax))


def empty_result(config: LossFilterConfig) -> str | None:
    """What stands in place of a result in the arm without results; None if the baseline needs no such arm."""
    return syntax_for(config.prompt.syntax).result_text("") if config.baseline == "min" else None


def scorer_input(row: dict[str, Any], config: LossFilterConfig) -> tuple[str, list[Any]]:
    """The row's own part of the prompt and its completion spans (with calls), for a row that has calls."""
    segments = [Segment.from_row(segment) for segment in row["segments"]]
    return prompt_turn(row["question"], config.prompt), completion_spans(
        segments, row["answer"], syntax_for(config.prompt.syntax)
    )


def decide(rows: Sequence[dict[str, Any]], scores: Mapping[str, RowScore], config: LossFilterConfig) -> Outcomes:
    """Apply the rule.

    `scores` holds an entry for every row with calls; NaN or infinity quarantines the row, as does what could not be
    scored.
    """
    results = [_decide_row(row, scores.get(row["id"], RowScore()), config) for row in rows]
    kept = [result for result in results if isinstance(result, dict)]
    return Outcomes(kept, [result for result in results if isinstance(result, Reject)], len(rows), len(kept))


def nothing_kept(outcomes: Outcomes, config: LossFilterConfig) -> str | None:
    """A warning where calls were judged and none is kept: training would go on without a single call. Else None."""
    judged = [row for row in outcomes.rows if row["n_calls_before"]]
    dropped = [reject.row for reject in outcomes.rejects if reject.reason == "calls_do_not_help"]
    deltas = [row["delta"] for row in (*judged, *dropped) if row["delta"] is not None]
    if not deltas or any(row["n_calls"] for row in judged):
        return None
    return (
        f"loss_filter: none of the calls of {len(deltas)} rows is kept; the loss fell by {max(deltas)} nats a token at "
        f"most (mean of a row's calls where each is judged alone), loss_filter.tau asks for {config.tau}: what is "
        "trained on holds no call"
    )


def _decide_row(row: dict[str, Any], score: RowScore, config: LossFilterConfig) -> dict[str, Any] | Reject:
    if row["n_calls"] == 0:
        return _filtered(row, "no_calls", score, [])
    if score.refused is not None:
        return Reject(row["id"], "quarantined", *score.refused, row)
    assert score.sample is not None or len(score.calls) == row["n_calls"], "a row with calls was not scored"
    broken = [one for one in score.scores if not one.finite]
    if broken:
        detail = f"{broken[0].plain} and {broken[0].called}"
        return Reject(row["id"], "quarantined", "loss_not_finite", detail, row)
    if score.sample is not None:
        verdicts = [_passes(score.sample, config)] * row["n_calls"]
    else:
        verdicts = [one is not None and _passes(one, config) for one in score.calls]
    decision = "kept" if all(verdicts) else "some_calls_kept" if any(verdicts) else "calls_removed"
    filtered = _filtered(row, decision, score, verdicts)
    if decision == "calls_removed" and config.losers == "drop":
        detail = f"loss {filtered['loss_plain']} without and {filtered['loss_with']} with calls"
        # With its losses, so that the report and explain-row can show them.
        return Reject(row["id"], "dropped", "calls_do_not_help", detail, {**filtered, "segments": row["segments"]})
    return filtered


def _passes(score: Score, config: LossFilterConfig) -> bool:
    return score.delta >= config.tau if config.test == ">=" else score.delta > config.tau


def _filtered(row: dict[str, Any], decision: str, score: RowScore, verdicts: Sequence[bool]) -> dict[str, Any]:
    segments = [Segment.from_row(segment) for segment in row["segments"]]
    chosen = row["segments"] if all(verdicts) else [segment.to_row() for segment in _with_only(segments, verdicts)]
    calls = [segment for segment in segments if segment.call is not None]
    return {
        **row,
        "segments": chosen,
        "n_calls": sum(segment["kind"] == "call" for segment in chosen),
        "decision": decision,
        **(_losses(score.sample) if score.sample else _means(score.scores)),
        "n_calls_before": row["n_calls"],
        "call_scores": [
            {"tool": call.call.tool if call.call else "", "kept": verdict, **_losses(one)}
            for call, verdict, one in zip(calls, verdicts, score.calls or [None] * len(calls), strict=True)
        ],
    }


def _losses(score: Score | None) -> dict[str, Any]:
    """The columns that a score fills; null without one."""
    if score is None:
        return dict.fromkeys(("loss_plain", "loss_with", "loss_empty", "delta", "n_common"))
    return {
        "loss_plain": round(score.plain, DECIMALS),
        "loss_with": round(score.called, DECIMALS),
        "loss_empty": None if score.empty is None else round(score.empty, DECIMALS),
        "delta": score.delta,
        "n_common": score.n_common,
    }


def _means(scores: Sequence[Score]) -> dict[str, Any]:
    """What stands in a row's own columns where only its calls were scored: means (of tokens the sum). For the record
    only: each call is decided by itself.
    """
    columns: dict[str, list[Any]] = {}
    for score in scores:
        for name, value in _losses(score).items():
            columns.setdefault(name, []).extend([] if value is None else [value])
    means = {name: round(sum(values) / len(values), DECIMALS) for name, values in columns.items() if values}
    return {**_losses(None), **means, "n_common": sum(score.n_common for score in scores) or None}


def _with_only(segments: Sequence[Segment], verdicts: Sequence[bool]) -> list[Segment]:
    """The same reasoning with those calls only whose verdict is True."""
    insertions, at, verdict = [], 0, iter(verdicts)
    for segment in segments:
        if segment.call is None:
            at += len(segment.text)
        elif next(verdict):
            assert segment.result is not None
            insertions.append(Insertion(at, segment.call, segment.result))
    return splice(plain_text(segments), insertions)
