"""Loss scoring: how much easier do calls make the rest of a trace? Feeds the loss filter (paper A, METHODS A.4).

L = mean negative log-likelihood (nats a token) over the tokens common to all arms after the first inserted call: the
rest of the reasoning and the answer; with Toolformer's weights the weighted sum over the five tokens behind the call.
Call and result tokens are context only. What is compared is put together in `trials`.

A row's arms go through the model as one sequence in which their common beginning stands once (`packing`), behind a head
that is encoded once for all rows. Only the common positions go through the output layer, some hundred at a time: the
full [tokens, vocabulary] tensor never exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentflow.errors import ConfigError, UnscorableRow
from agentflow.models.heads import SharedHead
from agentflow.models.packing import Packed, pack
from agentflow.models.trials import Arm, Pair, Trial, TrialRule, make_batches, make_pair, make_trial

__all__ = [
    "Arm", "Loss", "LossScorer", "Pair", "Trial", "TrialRule", "make_batches", "make_pair", "make_trial",
]  # fmt: skip

DECIMALS = 4
# Losses are rounded to 1e-4 nats, and a difference below that is a tie: the same decision on any batch composition or
# thread count (P5).
LOGIT_ROWS = 256
# Positions that go through the output layer at a time.


@dataclass(frozen=True)
class Loss:
    """Scores of one pair, nats a token. NaN or infinity is kept as such: the filter quarantines it."""

    id: str
    plain: float
    called: float
    n_common: int
    empty: float | None = None
    # With the calls but empty results; None where the rule has no such arm.
    calls: tuple[Loss | None, ...] = ()
    # What stands behind each call of a sample [calls]; None where nothing does.

    @property
    def finite(self) -> bool:
        return math.isfinite(self.plain) and math.isfinite(self.called) and math.isfinite(self.empty or 0.0)


class LossScorer:
    """Scores traces with one model.

    `shared_prefix` (worked examples) stands before every prompt and is computed once. Raises ConfigError for a model
    whose logits are more than its output layer's (soft-capped or scaled): their losses would be wrong.
    """

    def __init__(self, model: Any, tokenizer: Any, shared_prefix: str = "") -> None:
        self.model = model.eval()
        for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(model.config, name, None) not in (None, 1.0):
                raise ConfigError(f"a model with {name} cannot be the scorer; choose one without")
        self._pad = tokenizer.pad_token_id
        self._head = SharedHead(model, tokenizer, shared_prefix)
        self._shares = _sees_everything(model.config)

    def check(self, trial: Trial) -> None:
        """Raises UnscorableRow ("longer_than_context") for a row that the model was not made for."""
        context = getattr(self.model.config, "max_position_embeddings", None)
        needed = len(self._head.ids) + max(trial.packed.positions) + 1
        if context is not None and needed > context:
            message = f"row {trial.id!r} needs {needed} tokens with the prompt's head, the model takes {context}"
            raise UnscorableRow(message, kind="longer_than_context")

    def score(self, batch: Sequence[Pair]) -> list[Loss]:
        """Losses of a batch of pairs, in its order."""
        return [losses[0] for losses in self.score_trials([Trial(pair.id, (pair,)) for pair in batch])]

    def score_trials(self, batch: Sequence[Trial]) -> list[list[Loss]]:
        """For each trial the losses of its pairs, in their order."""
        if self._shares:
            per_trial = self._token_losses([trial.packed for trial in batch])
        else:
            arms = [[pack([arm]) for pair in trial.pairs for arm in pair.arms] for trial in batch]
            flat = iter(self._token_losses([packed for packeds in arms for packed in packeds], alone=True))
            per_trial = [[next(flat)[0] for _ in packeds] for packeds in arms]
        results = []
        for trial, per_arm in zip(batch, per_trial, strict=True):
            found = iter(per_arm)
            results.append([_loss(pair, [next(found) for _ in pair.arms]) for pair in trial.pairs])
        return results

    @torch.inference_mode()
    def _token_losses(self, batch: Sequence[Packed], *, alone: bool = False) -> list[list[torch.Tensor]]:
        """Negative log-likelihoods of every text's wanted tokens [rows, texts][wanted], float64 on the CPU."""
        device, longest = self.model.device, max(len(packed.ids) for packed in batch)
        ids = _padded([packed.ids for packed in batch], longest, self._pad).to(device)
        options: dict[str, Any] = {}
        if not alone:
            places = _padded([packed.positions for packed in batch], longest, 0)
            options["position_ids"] = (places + len(self._head.ids)).to(device)
            options["attention_mask"] = self._mask(batch, longest).to(device)
        # Without a mask: padding stands on the right, where a causal model's earlier positions cannot see it.
        hidden = self.model.get_decoder()(
            input_ids=ids, past_key_values=self._head.cache(len(batch)), use_cache=True, **options
        ).last_hidden_state
        wanted = [(r, place, token) for r, packed in enumerate(batch) for read in packed.reads for place, token in read]
        rows, at, tokens = torch.tensor(wanted, device=device).T
        project = self.model.get_output_embeddings()
        losses = torch.cat(
            [
                torch.nn.functional.cross_entropy(
                    project(hidden[rows[i : i + LOGIT_ROWS], at[i : i + LOGIT_ROWS]]).float(),
                    tokens[i : i + LOGIT_ROWS],
                    reduction="none",
                )
                for i in range(0, len(wanted), LOGIT_ROWS)
            ]
        )
        split = iter(losses.double().cpu().split([len(read) for packed in batch for read in packed.reads]))
        return [[next(split) for _ in packed.reads] for packed in batch]

    def _mask(self, batch: Sequence[Packed], longest: int) -> torch.Tensor:
        """Which key each query sees: 0 or the smallest number [rows, 1, longest, head + longest]."""
        # Padding belongs to the trunk: a row of a mask that allows nothing would give NaN.
        branch = _padded([packed.branch for packed in batch], longest, 0)
        seen = _padded([packed.trunk for packed in batch], longest, longest)
        place = torch.arange(longest)
        own = (branch[:, :, None] == branch[:, None, :]) & (place[None, :] <= place[:, None])
        trunk = (branch[:, None, :] == 0) & (place[None, None, :] < seen[:, :, None])
        head = torch.ones((len(batch), longest, len(self._head.ids)), dtype=torch.bool)
        mask = torch.cat([head, own | trunk], dim=2)[:, None]
        # Not boolean: every layer would turn it into numbers again.
        return torch.zeros(mask.shape, dtype=self.model.dtype).masked_fill_(~mask, torch.finfo(self.model.dtype).min)


def _sees_everything(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens. Windows and recurrent layers cannot skip a branch."""
    if config._attn_implementation not in ("sdpa", "eager"):
        return False  # other implementations take no mask of ours
    kinds = getattr(config, "layer_types", None)
    return set(kinds) == {"full_attention"} if kinds else getattr(config, "sliding_window", None) is None


def _padded(rows: Sequence[Sequence[int]], longest: int, value: int) -> torch.Tensor:
    result = torch.full((len(rows), longest), value)
    for r, row in enumerate(rows):
        result[r, : len(row)] = torch.tensor(row)
    return result


def _loss(pair: Pair, arms: Sequence[torch.Tensor]) -> Loss:
    """The numbers of a pair from the token losses of its arms (plain, called, empty) [arms][common]."""
    n = len(pair.plain.common)
    weights = pair.weights or [1 / n] * n
    calls = tuple(_weighed(pair.id, of_call, arms) if any(of_call) else None for of_call in pair.call_weights)
    return _weighed(pair.id, weights, arms, calls)


def _weighed(
    name: str, weights: Sequence[float], arms: Sequence[torch.Tensor], calls: tuple[Loss | None, ...] = ()
) -> Loss:
    used = torch.tensor(weights, dtype=torch.float64)
    # Tokens without weight are left out: 0 times infinity would be NaN.
    read = used > 0
    plain, called, *empty = [round(float((used[read] * arm[read]).sum()), DECIMALS) for arm in arms]
    return Loss(name, plain, called, int(read.sum()), empty[0] if empty else None, calls)
