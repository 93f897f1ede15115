"""Toolformer's own sampling: where would the scoring model itself write a call, and which one?

In: traces (question and reasoning). Out: for each the k places with the highest p(call) above tau_s, and at each the
distinct calls among m samples, the most frequent first. The calls are not run and not judged here.

    p(call at i) = p(opener | prompt, x_1 .. x_{i-1})        the opener is what every call begins with: " [" in compact

Toolformer, section 2 [P]; the prompt with worked examples in the place of its own annotation prompt [O]. Places are the
borders between tokens of the reasoning that are borders between characters too. Every row is computed by itself, so
what is found does not depend on batches, order or number of workers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from agentflow.examples import examples_head
from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.heads import SharedHead
from agentflow.models.settings import GenerationConfig
from agentflow.records import ToolCall, sha256_text
from agentflow.rendering import PromptConfig, prompt_turn
from agentflow.stages.tool_insertion import SamplingConfig
from agentflow.syntax import Syntax
from agentflow.tools.contract import ToolBox
from agentflow.toolset import syntax_for

LOGIT_ROWS = 256
# Positions that go through the output layer at a time.


@dataclass(frozen=True)
class Place:
    """Where a call may begin."""

    at: int
    # Offset in the reasoning, in characters.
    probability: float
    # p(call) there.


class _Opened(Syntax):
    """A syntax in which the opener stands in the prompt already: calls are found in what is written behind it."""

    def pending_call(self, text: str) -> ToolCall | None:
        return super().pending_call(self.opener + text)


class CallSampler:
    """Samples calls from one model."""

    def __init__(self, model: Any, tokenizer: Any, prompt: PromptConfig, config: SamplingConfig) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self._prompt = prompt
        self._syntax = syntax_for(prompt.syntax)
        self._head = examples_head(config.n_examples, prompt, self._syntax)
        self._shared = SharedHead(model, tokenizer, self._head)
        self._opener = self._ids(self._syntax.opener)

    def sample(self, row: dict[str, Any]) -> list[tuple[int, list[ToolCall]]]:
        """(offset, distinct calls) for the places of one trace, in order of p(call); places without a call left out."""
        start = prompt_turn(row["question"], self._prompt) + "<think>"
        places = self.places(row)
        prompts, seeds = [], []
        for place in places:
            prompts += [start + row["reasoning"][: place.at] + self._syntax.opener] * self.config.m
            seeds += [self._seed(row["id"], place.at, sample) for sample in range(self.config.m)]
        written = self._write(prompts, seeds)
        found = []
        for place in places:
            calls = [call for call in written[: self.config.m] if call is not None]
            written = written[self.config.m :]
            by_key = {call.key: call for call in calls}
            if by_key:
                # Among equally frequent ones Counter keeps the order of their first appearance.
                counts = Counter(call.key for call in calls).most_common()
                found.append((place.at, [by_key[key] for key, _ in counts]))
        return found

    def _write(self, prompts: list[str], seeds: list[int]) -> list[ToolCall | None]:
        """The call that the model writes behind each prompt; None where it writes none that could be used."""
        if not prompts:
            return []
        # Where a call is complete the row ends, because none may be run.
        settings = GenerationConfig(
            max_new_tokens=self.config.max_call_tokens, max_calls=0, temperature=self.config.temperature
        )
        syntax = _Opened(self._syntax.name, self._syntax.primary)
        with ToolRunner(contextlib.nullcontext(ToolBox([]))) as tools:
            engine = RolloutEngine(self.model, self.tokenizer, syntax, tools, settings)
            rollouts = engine.run(prompts, head=self._head, seeds=seeds, batch_size=len(prompts))
        calls = [rollout.calls[0] if rollout.calls else None for rollout in rollouts]
        return [call if call and self._usable(call) else None for call in calls]

    def _usable(self, call: ToolCall) -> bool:
        return call.tool in self.config.tools and self._syntax.representable(call)

    def places(self, row: dict[str, Any]) -> list[Place]:
        """The k best places of one trace with p(call) > tau_s, best first."""
        text = row["reasoning"]
        start = self._ids(prompt_turn(row["question"], self._prompt) + "<think>")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        borders = [begin for begin, _ in encoded["offset_mapping"]]
        # A token inside a character begins where its neighbour does, or repeats it: there is no place before it.
        usable = [i for i in range(len(borders)) if self._is_border(borders, i, encoded["offset_mapping"])]
        if not usable:
            return []
        chance = self._first_token(start, encoded["input_ids"], usable)
        best = sorted(zip(usable, chance, strict=True), key=lambda item: (-item[1], item[0]))
        best = [item for item in best if item[1] > self.config.tau_s]
        if len(self._opener) > 1:
            # p(opener) is at most p of its first token: only the most likely places are worth the second look.
            best = best[: 4 * self.config.k]
            rest = [self._rest_of_opener(start + encoded["input_ids"][:i]) for i, _ in best]
            best = [(i, first * more) for (i, first), more in zip(best, rest, strict=True)]
            best = sorted((item for item in best if item[1] > self.config.tau_s), key=lambda item: (-item[1], item[0]))
        return [Place(borders[i], probability) for i, probability in best[: self.config.k]]

    @staticmethod
    def _is_border(borders: list[int], i: int, offsets: list[tuple[int, int]]) -> bool:
        return i == 0 or (borders[i] >= offsets[i - 1][1] and borders[i] != borders[i - 1])

    @torch.inference_mode()
    def _first_token(self, start: list[int], ids: list[int], places: list[int]) -> list[float]:
        """p(first token of the opener) before each of the tokens `places` of `ids`."""
        hidden = self._hidden(start + ids)
        at = torch.tensor([len(start) + i - 1 for i in places], device=hidden.device)
        project = self.model.get_output_embeddings()
        found: list[float] = []
        for first in range(0, len(places), LOGIT_ROWS):
            logits = project(hidden[at[first : first + LOGIT_ROWS]]).float()
            found += torch.log_softmax(logits, dim=-1)[:, self._opener[0]].exp().tolist()
        return found

    @torch.inference_mode()
    def _rest_of_opener(self, ids: list[int]) -> float:
        """p(opener without its first token | ids, its first token)."""
        hidden = self._hidden(ids + self._opener[:-1])[len(ids) :]
        logprobs = torch.log_softmax(self.model.get_output_embeddings()(hidden).float(), dim=-1)
        return float(sum(logprobs[i, token] for i, token in enumerate(self._opener[1:])).exp())  # type: ignore[union-attr]

    def _hidden(self, ids: list[int]) -> torch.Tensor:
        """Last hidden states behind the shared head [tokens, width]."""
        inputs = torch.tensor([ids], device=self.model.device)
        decoder = self.model.get_decoder()
        hidden: torch.Tensor = decoder(
            input_ids=inputs, past_key_values=self._shared.cache(1), use_cache=True
        ).last_hidden_state[0]
        return hidden

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _seed(self, row_id: str, at: int, sample: int) -> int:
        return int(sha256_text(f"{self.config.seed}|{row_id}|{at}|{sample}")[:12], 16)
