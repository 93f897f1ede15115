"""The head that all prompts of a batch share (BOS, system prompt, worked examples), encoded once.

Used by generation and by loss scoring.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from agentflow.models.loading import start_ids, tokenize_with


class SharedHead:
    """Tokens that stand before every row (the first of all are `start_ids`), and their key-value cache."""

    def __init__(self, model: Any, tokenizer: Any, text: str) -> None:
        self.ids: list[int] = [*start_ids(tokenizer), *(tokenize_with(tokenizer)(text) if text else ())]
        self._config = model.config
        self._cache = self._encode(model) if self.ids else None

    @torch.inference_mode()
    def _encode(self, model: Any) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        model.get_decoder()(
            input_ids=torch.tensor([self.ids], device=model.device), past_key_values=cache, use_cache=True
        )
        return cache

    def cache(self, rows: int) -> DynamicCache:
        """A fresh cache for `rows` rows that begins with the head."""
        if self._cache is None:
            return DynamicCache(config=self._config)
        cache = copy.copy(self._cache)
        cache.layers = [_for_rows(layer, rows) for layer in self._cache.layers]
        return cache


def _for_rows(layer: Any, rows: int) -> Any:
    """A layer of a one-row cache for `rows` rows."""
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        layer = copy.deepcopy(layer)
        layer.batch_repeat_interleave(rows)
        return layer
    layer = copy.copy(layer)
    # Views, not copies: these grow by concatenation, which leaves what they had untouched.
    layer.keys, layer.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)
    return layer
