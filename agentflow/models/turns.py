"""Rollouts a turn at a time, by a sampler that cannot be fed token by token: vLLM, through TRL.

In: prompts. Out: one `Rollout` each, as `RolloutEngine` gives them. All rows are sampled up to their next call, all
calls of the turn run concurrently, then the rows go on from the very tokens they have (nothing is rendered or encoded
twice; vLLM's prefix cache makes that cheap). Differs from `RolloutEngine`: a row waits for its turn's slowest tool,
and samples come from vLLM's own random numbers, so a resumed training samples other rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentflow import clock
from agentflow.errors import ToolFailure
from agentflow.models.generate import ToolRunner, characters, text_of
from agentflow.models.loading import start_ids
from agentflow.models.settings import GenerationConfig
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.syntax import Syntax


class TurnSampler(Protocol):
    """What is used of `trl.generation.vllm_generation.VLLMGeneration` (trl 1.16)."""

    max_completion_length: int
    generation_kwargs: dict[str, Any]

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        """(prompt ids, completion ids [rows][tokens], logprobs [rows][tokens][1] or None, their token ids)."""


@dataclass
class _Row:
    """A row being generated."""

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    model_written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    injected: list[tuple[int, int]] = field(default_factory=list)
    # Completion tokens of each result: the first and the one behind it.
    unread: int = 0
    # First completion token after the last injected result: the text that may hold the next call.
    done: bool = False
    finished: bool = False
    failure: str | None = None


def alone(rows: int) -> int:
    """The largest number of rows of all workers, where each samples for itself."""
    return rows


class TurnEngine:
    """Generates with one sampler, one syntax and one tool box.

    most(n): the largest n over all workers. With tensor parallelism or a server, workers sample together and must ask
    for equally many rows equally often; who has fewer fills up with rows that are thrown away.
    """

    def __init__(
        self,
        sampler: TurnSampler,
        tokenizer: Any,
        syntax: Syntax,
        tools: ToolRunner | None,
        config: GenerationConfig,
        most: Callable[[int], int] = alone,
    ) -> None:
        self.sampler, self.tokenizer, self.syntax, self.tools, self.config = sampler, tokenizer, syntax, tools, config
        self._most = most

    def run(
        self, prompts: Sequence[str], *, head: str = "", seeds: Sequence[int] | None = None, batch_size: int = 0
    ) -> list[Rollout]:
        """Rollouts in the order of `prompts`, `head` before each. seeds and batch_size are the sampler's own affair."""
        shared = start_ids(self.tokenizer) + self._ids(head)
        rows = [_Row(shared + self._ids(prompt)) for prompt in prompts]
        while most := self._most(sum(not row.done for row in rows)):
            open_rows = [row for row in rows if not row.done]
            with clock.here().during("generate"):
                sampled = self._sample(open_rows, most, rows[0])
            for row, (tokens, logprobs) in zip(open_rows, sampled, strict=True):
                self._write(row, tokens, logprobs)
            self._call(open_rows)
        return [self._rollout(row) for row in rows]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _room(self, row: _Row) -> int:
        return self.config.max_new_tokens - len(row.completion_ids)

    def _sample(self, rows: list[_Row], most: int, filler: _Row) -> list[tuple[list[int], list[float]]]:
        """What the model writes next in each row, at most up to its next call."""
        # One limit holds for all rows: the longest any of them may still write; the others are cut.
        self.sampler.max_completion_length = max((self._room(row) for row in rows), default=1)
        stop = {"stop": [self.syntax.call_end], "include_stop_str_in_output": True} if self.tools else {}
        self.sampler.generation_kwargs = stop
        ids = [row.prompt_ids + row.completion_ids for row in rows]
        ids += [filler.prompt_ids] * (most - len(rows))
        _, completions, logprobs, _ = self.sampler.generate(ids, None, 1)
        sampled = []
        for i, row in enumerate(rows):
            tokens = list(completions[i])[: self._room(row)]
            # An unavailable logprob is NaN: TRL then corrects nothing at that token.
            of = [math.nan if given[0] is None else given[0] for given in logprobs[i]] if logprobs else []
            sampled.append((tokens, (of + [math.nan] * len(tokens))[: len(tokens)]))
            clock.here().count(clock.GENERATED, len(tokens))
        return sampled

    def _write(self, row: _Row, tokens: list[int], logprobs: list[float]) -> None:
        row.completion_ids += tokens
        row.model_written += [1] * len(tokens)
        row.logprobs += logprobs
        row.finished = bool(tokens) and tokens[-1] == self.tokenizer.eos_token_id
        # No token at all: the sampler sees no room in the model's context.
        row.done = row.finished or not tokens or self._room(row) <= 0

    def _call(self, rows: list[_Row]) -> None:
        """Run the calls that the rows now end with, all at once, and put their results behind them."""
        pending: list[tuple[_Row, Future[ToolResult]]] = []
        for row in rows:
            call = None
            if self.tools is not None and not row.finished:
                call = self.syntax.pending_call(self.tokenizer.decode(row.completion_ids[row.unread :]))
            if call is None:
                continue
            row.calls.append(call)
            # Where the row ends, its last call is not run: nobody would read the result.
            row.done = row.done or len(row.calls) > self.config.max_calls
            if not row.done:
                assert self.tools is not None
                pending.append((row, self.tools.submit(call)))
        with clock.here().during("tool_wait"):
            for row, future in pending:
                try:
                    result = future.result()
                except ToolFailure as failure:
                    row.done, row.failure = True, failure.kind
                else:
                    self._inject(row, result)

    def _inject(self, row: _Row, result: ToolResult) -> None:
        row.results.append(result)
        ids = self._ids(self.syntax.result_text(result.text))[: self._room(row)]
        row.completion_ids += ids
        row.model_written += [0] * len(ids)
        row.logprobs += [0.0] * len(ids)
        row.unread = len(row.completion_ids)
        row.injected.append((row.unread - len(ids), row.unread))
        row.done = self._room(row) <= 0

    def _rollout(self, row: _Row) -> Rollout:
        return Rollout(
            prompt_ids=row.prompt_ids,
            completion_ids=row.completion_ids,
            model_written=row.model_written,
            logprobs=row.logprobs,
            text=text_of(self.tokenizer, row.completion_ids),
            calls=tuple(row.calls),
            results=tuple(row.results),
            finished=row.finished,
            failure=row.failure,
            injected=characters(self.tokenizer, row.completion_ids, row.injected),
        )
