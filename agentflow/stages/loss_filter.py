"""loss_filter: TOOL_TRACES + base_model -> FILTERED.

Keeps calls only where they make the rest easier to predict (METHODS A.4).

Paper A's rule: keep (x, r, a) iff L(x, r, a) < L(x, r), strict; a losing sample stays, without its calls.
`losers="drop"` leaves it out.

    loss_plain 2.1034, loss_with 1.4410, delta 0.6624  ->  decision "kept"
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from agentflow.config import Frozen
from agentflow.examples import examples_head
from agentflow.insertion.splice import without_calls
from agentflow.records import Outcomes, Reject, Segment
from agentflow.rendering import PromptConfig, completion_spans, prompt_turn
from agentflow.toolset import syntax_for


class LossFilterConfig(Frozen):
    """The rule and what the scorer sees."""

    prompt: PromptConfig = PromptConfig()
    tau: float = Field(0.0, ge=0)
    # Nats a token: calls are kept iff loss_plain - loss_with > tau.
    losers: Literal["keep_without_calls", "drop"] = "keep_without_calls"
    # Paper A keeps them without calls.
    n_examples: int = Field(2, ge=0, le=2)
    # Worked examples before the question, the same in both arms: without them a model that has never seen the syntax
    # rejects useful calls.
    token_budget: int = Field(4096, ge=64)
    # Padded tokens of one forward pass.


class Scores(Protocol):
    """What a scorer says about one row (models.scoring.Loss)."""

    @property
    def plain(self) -> float: ...

    @property
    def called(self) -> float: ...

    @property
    def n_common(self) -> int: ...


def shared_prefix(config: LossFilterConfig) -> str:
    """What stands before every prompt, the same in both arms; computed once by the scorer."""
    return examples_head(config.n_examples, config.prompt, syntax_for(config.prompt.syntax))


def scorer_input(row: dict[str, Any], config: LossFilterConfig) -> tuple[str, list[Any]]:
    """The row's own part of the prompt and its completion spans (with calls), for a row that has calls."""
    segments = [Segment.from_row(segment) for segment in row["segments"]]
    return prompt_turn(row["question"], config.prompt), completion_spans(
        segments, row["answer"], syntax_for(config.prompt.syntax)
    )


def decide(rows: Sequence[dict[str, Any]], scores: Mapping[str, Scores], config: LossFilterConfig) -> Outcomes:
    """Apply the rule. `scores` holds an entry for every row with calls; NaN or infinity quarantines the row."""
    kept, rejects = [], []
    for row in rows:
        if row["n_calls"] == 0:
            kept.append(_filtered(row, "no_calls", None, row["segments"]))
            continue
        score = scores[row["id"]]
        if not (math.isfinite(score.plain) and math.isfinite(score.called)):
            rejects.append(
                Reject(row["id"], "quarantined", "loss_not_finite", f"{score.plain} and {score.called}", row)
            )
        elif round(score.plain - score.called, 4) > config.tau:
            kept.append(_filtered(row, "kept", score, row["segments"]))
        elif config.losers == "drop":
            detail = f"loss {score.plain} without and {score.called} with calls"
            rejects.append(Reject(row["id"], "dropped", "calls_do_not_help", detail, row))
        else:
            plain = without_calls([Segment.from_row(segment) for segment in row["segments"]])
            kept.append(_filtered(row, "calls_removed", score, [segment.to_row() for segment in plain]))
    return Outcomes(kept, rejects, len(rows), len(kept))


def _filtered(
    row: dict[str, Any], decision: str, score: Scores | None, segments: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        **row,
        "segments": segments,
        "n_calls": sum(segment["kind"] == "call" for segment in segments),
        "decision": decision,
        "loss_plain": score.plain if score else None,
        "loss_with": score.called if score else None,
        "delta": round(score.plain - score.called, 4) if score else None,
        "n_common": score.n_common if score else None,
        "n_calls_before": row["n_calls"],
    }
