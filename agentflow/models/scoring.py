"""Loss scoring: how much easier do calls make the rest of a trace? Feeds the loss filter (paper A, METHODS A.4).

L = mean negative log-likelihood (nats a token) over the tokens common to both arms after the first inserted call: the
rest of the reasoning and the answer. Call and result tokens are context only. Both arms cut the text at the same places
(mask's rule), so their common tokens are identical by construction, and that is asserted.

Only the common positions go through the output layer: the full [tokens, vocabulary] tensor never exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentflow.mask import encode
from agentflow.models.heads import SharedHead
from agentflow.models.loading import tokenize_with
from agentflow.records import Span

DECIMALS = 4
# Losses are rounded to 1e-4 nats, and a difference below that is a tie: the same decision on any batch composition or
# thread count (P5).


@dataclass(frozen=True)
class Arm:
    """One way to write a trace, as tokens."""

    input_ids: list[int]
    common: list[int]
    # Positions of the tokens whose loss counts.


@dataclass(frozen=True)
class Pair:
    """A trace without and with its calls."""

    id: str
    plain: Arm
    called: Arm

    @property
    def length(self) -> int:
        return max(len(self.plain.input_ids), len(self.called.input_ids))


@dataclass(frozen=True)
class Loss:
    """Scores of one trace, nats a token. NaN or infinity is kept as such: the filter quarantines it."""

    id: str
    plain: float
    called: float
    n_common: int

    @property
    def finite(self) -> bool:
        return math.isfinite(self.plain) and math.isfinite(self.called)


def make_pair(row_id: str, prompt: str, spans: Sequence[Span], tokenizer: Any) -> Pair:
    """Both arms of a trace.

    `spans` are the completion's, with calls; the plain arm is the same without call and result spans.
    """
    tokenize = tokenize_with(tokenizer)
    head = Span("prompt", prompt)
    called = encode([head, *spans], tokenize)
    plain = encode([head, *(span for span in spans if span.role not in ("call", "result"))], tokenize)
    first = called.roles.index("call")
    common = [i for i, role in enumerate(called.roles) if i > first and role in ("think", "answer")]
    offset = len(plain.input_ids) - len(common)
    plain_common = list(range(offset, len(plain.input_ids)))
    assert [called.input_ids[i] for i in common] == [plain.input_ids[i] for i in plain_common], "arms are misaligned"
    return Pair(row_id, Arm(plain.input_ids, plain_common), Arm(called.input_ids, common))


def make_batches(pairs: Sequence[Pair], token_budget: int) -> list[list[Pair]]:
    """Batches of similar length, each at most `token_budget` padded tokens an arm (always at least one pair).

    Composed from all pairs sorted by (length, id), before any sharding, so the batches do not depend on input order or
    on the number of workers.
    """
    batches: list[list[Pair]] = []
    for pair in sorted(pairs, key=lambda p: (p.length, p.id)):
        if batches and (len(batches[-1]) + 1) * pair.length <= token_budget:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return batches


class LossScorer:
    """Scores pairs with one model.

    `shared_prefix` (worked examples) stands before every prompt and is computed once.
    """

    def __init__(self, model: Any, tokenizer: Any, shared_prefix: str = "") -> None:
        self.model = model.eval()
        self._pad = tokenizer.pad_token_id
        self._head = SharedHead(model, tokenizer, shared_prefix)

    def score(self, batch: Sequence[Pair]) -> list[Loss]:
        """Losses of a batch, in its order."""
        plain = self._mean_losses([pair.plain for pair in batch])
        called = self._mean_losses([pair.called for pair in batch])
        return [
            Loss(pair.id, round(p, DECIMALS), round(c, DECIMALS), len(pair.plain.common))
            for pair, p, c in zip(batch, plain, called, strict=True)
        ]

    @torch.inference_mode()
    def _mean_losses(self, arms: Sequence[Arm]) -> list[float]:
        longest = max(len(arm.input_ids) for arm in arms)
        device = self.model.device
        ids = torch.full((len(arms), longest), self._pad, device=device)
        for r, arm in enumerate(arms):
            ids[r, : len(arm.input_ids)] = torch.tensor(arm.input_ids)
        # Padding stands on the right, where a causal model's earlier positions cannot see it: no mask is needed.
        hidden = self.model.get_decoder()(
            input_ids=ids, past_key_values=self._head.cache(len(arms)), use_cache=True
        ).last_hidden_state
        rows = torch.tensor([r for r, arm in enumerate(arms) for _ in arm.common], device=device)
        positions = torch.tensor([p for arm in arms for p in arm.common], device=device)
        logits = self.model.get_output_embeddings()(hidden[rows, positions - 1]).float()
        losses = torch.nn.functional.cross_entropy(logits, ids[rows, positions], reduction="none").double()
        total = torch.zeros(len(arms), dtype=torch.float64, device=device).index_add_(0, rows, losses)
        counts = torch.tensor([len(arm.common) for arm in arms], dtype=torch.float64, device=device)
        return (total / counts).tolist()
