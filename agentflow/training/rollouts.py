"""The rollouts of a GRPO training: recorded step by step, kept with checkpoints, saved as the artifact's data set.

In: graded rollouts. Out: rows in ROLLOUTS columns, and their counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from agentflow.records import Rollout
from agentflow.rendering import prompt_head
from agentflow.rewards.contract import gold_of
from agentflow.schemas import ROLLOUTS
from agentflow.stages.grpo import GrpoConfig
from agentflow.syntax import Syntax
from agentflow.toolset import syntax_for
from agentflow.training.grading import Graded
from agentflow.training.jobs import PolicyJob
from agentflow.training.sampling import Fate, Scored, plain_fates


@dataclass
class RolloutRecorder:
    """Keeps the rollouts of one worker for the artifact."""

    config: GrpoConfig
    by_prompt: dict[str, dict[str, Any]]
    # Prompt text to the question's row.
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._syntax = syntax_for(self.config.prompt.syntax)

    @property
    def head(self) -> str:
        """What stands before every prompt (system prompt)."""
        return prompt_head(self.config.prompt)

    def weighted(self, parts: dict[str, float] | None) -> float | None:
        """The parts' weighted sum, as TRL sums them; None for a failed rollout."""
        return None if parts is None else self.config.reward.weighted(parts).total

    def record(
        self,
        step: int,
        rank: int,
        prompts: Sequence[str],
        graded: Sequence[Graded | Scored],
        fates: Sequence[Fate] | None = None,
    ) -> None:
        """Append this step's rollouts of one worker in ROLLOUTS columns; without `fates` they are whole groups.

        Calls that run count when they have a result, those of single turns when they were written.
        """
        turn = self.config.generation.single_turn
        rewards = [self.weighted(one.parts) for one in graded]
        fates = plain_fates(rewards, self.config.group_size, rank) if fates is None else fates
        for i, (prompt, one) in enumerate(zip(prompts, graded, strict=True)):
            question, rollout = self.by_prompt[prompt], one.rollout
            self.rows.append(
                {
                    "id": f"{step:05d}-{fates[i].group:03d}-{fates[i].sample:03d}",
                    "step": step,
                    "question_id": question["id"],
                    "prompt": self.head + prompt,
                    "completion": rollout.text,
                    "spans": written_spans(rollout, fates[i].given, self._syntax),
                    "gold": _gold_text(question),
                    "answer": one.answer,
                    "n_calls": len(rollout.calls if turn else rollout.results),
                    "rewards": json.dumps(one.parts),
                    "reward": rewards[i],
                    "advantage": fates[i].advantage,
                    "left_out": fates[i].left_out,
                    "given": fates[i].given,
                    "status": "ok" if rollout.failure is None else "failed",
                    "failure": rollout.failure,
                }
            )

    def save_part(self, folder: Path, rank: int) -> None:
        """Put this worker's rollouts so far into a checkpoint."""
        lines = (json.dumps(row, allow_nan=False) for row in self.rows)
        (folder / f"rollouts-{rank}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def load_part(self, folder: Path, rank: int) -> None:
        """Take up the rollouts of a checkpoint."""
        self.rows = [json.loads(line) for line in (folder / f"rollouts-{rank}.jsonl").read_text().splitlines()]


def written_spans(rollout: Rollout, given: int, syntax: Syntax) -> list[dict[str, Any]]:
    """A rollout's text in schemas.WRITTEN: its first `given` characters, the policy's text and calls, tools' results.

    A result is what was injected, never what looks like one: that may be the policy's own.
    """
    spans = [_span("given", 0, given)]
    for (begin, end), call, result in zip(rollout.injected, rollout.calls, rollout.results, strict=False):
        spans += _policys(rollout.text, spans[-1]["end"], begin, syntax)
        spans.append(_span("result", begin, end, call.tool, result.ledger_key))
    spans += _policys(rollout.text, spans[-1]["end"], len(rollout.text), syntax)
    return [span for span in spans if span["begin"] < span["end"]]


def _policys(text: str, begin: int, end: int, syntax: Syntax) -> list[dict[str, Any]]:
    """Text and calls that the policy wrote from `begin` to `end`."""
    spans, place = [], begin
    for found in syntax.find_calls(text[begin:end]):
        spans.append(_span("text", place, begin + found.start))
        place = begin + found.call_end
        spans.append(_span("call", begin + found.start, place, found.call.tool))
    return [*spans, _span("text", place, end)]


def _span(role: str, begin: int, end: int, tool: str | None = None, ledger_key: str | None = None) -> dict[str, Any]:
    return {"role": role, "begin": begin, "end": end, "tool": tool, "ledger_key": ledger_key}


def _gold_text(question: dict[str, Any]) -> str:
    """What was asked for, for a reader: the answer, or the calls as JSON."""
    calls = gold_of(question).calls
    if not calls:
        return str(question["answer"])
    return json.dumps([{"name": call.tool, "arguments": call.arguments} for call in calls], ensure_ascii=False)


def save_rollouts(rows: list[dict[str, Any]], job: PolicyJob) -> None:
    """All rollouts as an Arrow dataset inside the checkpoint's folder."""
    Dataset(pa.Table.from_pylist(rows, schema=ROLLOUTS)).save_to_disk(str(job.rollouts_out))
