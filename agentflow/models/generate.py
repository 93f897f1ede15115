"""The rollout engine: generation with tools really executed, used by evaluation and GRPO alike.

In: prompts. Out: one `Rollout` each, token for token as sampled. The model writes until a call stands at the end of its
text; the call runs in the background while the other rows go on; its result is then fed to that row one token a step
(forced instead of sampled), so the key-value cache is kept and nothing is ever encoded twice. A row that waits for its
tool feeds a masked pad token: a hole in its attention.

All pending calls of a batch run concurrently. A row's samples depend only on its own seed, never on its neighbours'
(one uniform number per token from the row's generator). A tool whose infrastructure failed ends its row with a typed
failure: such a rollout is no sample.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from agentflow import clock
from agentflow.errors import ToolFailure
from agentflow.models.growing_cache import growing
from agentflow.models.heads import SharedHead
from agentflow.models.settings import GenerationConfig
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.syntax import Syntax
from agentflow.tools.contract import ToolBox

POLL_S = 0.002
# How long a decoding step waits for tools that may answer at once (the calculator) before it goes on without them.


class ToolRunner:
    """A thread with an event loop in which tools run while the model decodes. Use as a context manager.

    `opened` is entered inside that loop, since clients belong to the loop they were opened in.
    """

    def __init__(self, opened: AbstractAsyncContextManager[ToolBox]) -> None:
        self._opened = opened
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tools", daemon=True)

    def __enter__(self) -> ToolRunner:
        self._thread.start()
        try:
            self._toolbox = asyncio.run_coroutine_threadsafe(self._opened.__aenter__(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._close(kind, error, trace), self._loop).result()
        finally:
            self._stop()

    async def _close(self, kind: Any, error: Any, trace: Any) -> None:
        # Calls are still open here only if generation broke off; they must not outlive their clients.
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._opened.__aexit__(kind, error, trace)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """OpenAI function objects of the tools."""
        return self._toolbox.schemas

    def submit(self, call: ToolCall) -> Future[ToolResult]:
        """Start `call`; the future raises ToolFailure if its infrastructure failed."""
        return asyncio.run_coroutine_threadsafe(self._toolbox.run(call), self._loop)


@dataclass
class _Row:
    """A row being generated."""

    index: int
    # Place in the caller's list.
    prompt_ids: list[int]
    generator: torch.Generator | None
    completion_ids: list[int] = field(default_factory=list)
    model_written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    fed: int = 0
    # Completion tokens that are in the key-value cache already; the row may write only when all are.
    waiting: Future[ToolResult] | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    injected: list[tuple[int, int]] = field(default_factory=list)
    # Completion tokens of each result: the first and the one behind it.
    unread: int = 0
    # First completion token after the last injected result: the text that may hold the next call.
    done: bool = False
    finished: bool = False
    failure: str | None = None


class RolloutEngine:
    """Generates with one model, one syntax and one tool box.

    Greedy or sampled; batch composition never changes a row's tokens' seeds.
    """

    def __init__(
        self, model: Any, tokenizer: Any, syntax: Syntax, tools: ToolRunner | None, config: GenerationConfig
    ) -> None:
        self.model, self.tokenizer, self.syntax, self.tools, self.config = model, tokenizer, syntax, tools, config
        self._pad = tokenizer.pad_token_id
        self._ends = {tokenizer.eos_token_id}

    def run(
        self, prompts: Sequence[str], *, head: str = "", seeds: Sequence[int] | None = None, batch_size: int = 32
    ) -> list[Rollout]:
        """Rollouts in the order of `prompts`; `head` stands before each of them and is encoded once.

        Rows of similar prompt length share a batch, since a batch is as slow as its longest.
        """
        rows = [
            _Row(i, self.tokenizer(prompt, add_special_tokens=False)["input_ids"], self._generator(seeds, i))
            for i, prompt in enumerate(prompts)
        ]
        ordered = sorted(rows, key=lambda row: (len(row.prompt_ids), row.index))
        training = self.model.training
        self.model.eval()
        try:
            shared = SharedHead(self.model, self.tokenizer, head)
            for start in range(0, len(ordered), batch_size):
                self._run_batch(ordered[start : start + batch_size], shared)
        finally:
            self.model.train(training)
        return [self._rollout(row, shared) for row in rows]

    def _generator(self, seeds: Sequence[int] | None, index: int) -> torch.Generator | None:
        if self.config.temperature == 0:
            return None
        return torch.Generator().manual_seed(index if seeds is None else seeds[index])

    # ------------------------------------------------------------------ one batch
    @torch.inference_mode()
    def _run_batch(self, rows: list[_Row], head: SharedHead) -> None:
        longest = max(len(row.prompt_ids) for row in rows)
        device = self.model.device
        ids = torch.full((len(rows), longest), self._pad, device=device)
        mask = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        for r, row in enumerate(rows):
            ids[r, longest - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
            mask[r, longest - len(row.prompt_ids) :] = 1
        mask = torch.cat([torch.ones((len(rows), len(head.ids)), dtype=torch.long, device=device), mask], dim=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, len(head.ids) :]
        cache = growing(head.cache(len(rows)))
        active = rows
        while True:
            with clock.here().during("generate"):
                logits = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
            self._advance(active, logits)
            keep = [r for r, row in enumerate(active) if not row.done]
            if not keep:
                return
            # Finished rows cost as much as live ones; dropping them copies the cache, so not one by one.
            if len(keep) <= 0.75 * len(active):
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                mask, positions = mask[index], positions[index]
                active = [active[r] for r in keep]
            ids, fed = self._next_inputs(active)
            mask = torch.cat([mask, fed], dim=1)
            positions = (mask.sum(1, keepdim=True) - 1).clamp(min=0)

    def _advance(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Sample where a row may write, then start the calls that its text now ends with."""
        free = [
            r
            for r, row in enumerate(rows)
            if not row.done and row.waiting is None and row.fed == len(row.completion_ids)
        ]
        clock.here().count(clock.GENERATED, len(free))
        if free:
            tokens, logprobs = self._sample([rows[r] for r in free], logits[free].float())
            for r, token, logprob in zip(free, tokens, logprobs, strict=True):
                self._write(rows[r], token, logprob)
        self._collect(rows)

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> tuple[list[int], list[float]]:
        if self.config.temperature == 0:
            tokens = logits.argmax(-1)
            return tokens.tolist(), [0.0] * len(rows)
        logprobs = torch.log_softmax(logits / self.config.temperature, dim=-1)
        # Inverse transform sampling: one uniform number a row, so neighbours cannot change what a row draws.
        uniform = torch.stack([torch.rand((), generator=row.generator) for row in rows]).to(logits.device)
        cumulative = logprobs.exp().double().cumsum(-1)
        threshold = (uniform.double() * cumulative[:, -1]).unsqueeze(1)
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
        return tokens.tolist(), logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()

    def _write(self, row: _Row, token: int, logprob: float) -> None:
        row.completion_ids.append(token)
        row.model_written.append(1)
        row.logprobs.append(logprob)
        if token in self._ends:
            row.done = row.finished = True
            return
        row.done = len(row.completion_ids) >= self.config.max_new_tokens
        listens = self.tools is not None if self.config.calls == "execute" else self.config.calls == "end"
        call = self.syntax.pending_call(self.tokenizer.decode(row.completion_ids[row.unread :])) if listens else None
        if call is None:
            return
        row.calls.append(call)
        if self.config.calls == "end":
            self._close(row)
            return
        # Where the row ends, its last call is not run: nobody would read the result.
        row.done = row.done or len(row.calls) > self.config.max_calls
        if not row.done:
            assert self.tools is not None
            row.waiting = self.tools.submit(call)

    def _close(self, row: _Row) -> None:
        """End a row behind its call. The end token is ours and carries no loss; with it, TRL does not take the row for
        one that was cut off.
        """
        if len(row.completion_ids) < self.config.max_new_tokens:
            row.completion_ids.append(self.tokenizer.eos_token_id)
            row.model_written.append(0)
            row.logprobs.append(0.0)
        row.done = row.finished = True

    def _collect(self, rows: list[_Row]) -> None:
        """Turn finished calls into forced tokens. Blocks only if no row could do anything else."""
        pending = {row.waiting for row in rows if row.waiting is not None}
        if not pending:
            return
        idle = all(row.done or (row.waiting is not None and row.fed == len(row.completion_ids)) for row in rows)
        with clock.here().during("tool_wait"):
            wait(pending, timeout=None if idle else POLL_S, return_when=FIRST_COMPLETED)
        for row in rows:
            if row.waiting is None or not row.waiting.done():
                continue
            future, row.waiting = row.waiting, None
            try:
                result = future.result()
            except ToolFailure as failure:
                row.done, row.failure = True, failure.kind
                continue
            row.results.append(result)
            self._inject(
                row, self.tokenizer(self.syntax.result_text(result.text), add_special_tokens=False)["input_ids"]
            )

    def _inject(self, row: _Row, result_ids: list[int]) -> None:
        result_ids = result_ids[: self.config.max_new_tokens - len(row.completion_ids)]
        row.completion_ids += result_ids
        row.model_written += [0] * len(result_ids)
        row.logprobs += [0.0] * len(result_ids)
        row.unread = len(row.completion_ids)
        row.injected.append((row.unread - len(result_ids), row.unread))
        row.done = len(row.completion_ids) >= self.config.max_new_tokens

    def _next_inputs(self, rows: list[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """The token each row feeds next [rows, 1] and whether it counts (0 is a hole: the row waits or is done)."""
        tokens, counts = [], []
        for row in rows:
            feeds = row.fed < len(row.completion_ids) and not row.done
            tokens.append(row.completion_ids[row.fed] if feeds else self._pad)
            counts.append(int(feeds))
            row.fed += int(feeds)
        device = self.model.device
        return torch.tensor(tokens, device=device).unsqueeze(1), torch.tensor(counts, device=device).unsqueeze(1)

    def _rollout(self, row: _Row, head: SharedHead) -> Rollout:
        text = text_of(self.tokenizer, row.completion_ids)
        if self.config.calls == "collect":
            row.calls = [found.call for found in self.syntax.find_calls(text)]
        return Rollout(
            prompt_ids=head.ids + row.prompt_ids,
            completion_ids=row.completion_ids,
            model_written=row.model_written,
            logprobs=row.logprobs,
            text=text,
            calls=tuple(row.calls),
            results=tuple(row.results),
            finished=row.finished,
            failure=row.failure,
            injected=characters(self.tokenizer, row.completion_ids, row.injected),
        )


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of completion tokens, without the end token."""
    return str(tokenizer.decode([token for token in ids if token != tokenizer.eos_token_id]))


def characters(tokenizer: Any, ids: Sequence[int], tokens: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges of tokens of `ids` as ranges of characters of their text."""
    return tuple((len(text_of(tokenizer, ids[:first])), len(text_of(tokenizer, ids[:end]))) for first, end in tokens)
