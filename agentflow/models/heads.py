"""The head that all prompts of a batch share (system prompt, worked examples), encoded once.

Used by generation and by loss scoring.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache


class SharedHead:
    """Tokens that stand before every row, and their key-value cache."""

    def __init__(self, model: Any, tokenizer: Any, text: str) -> None:
        self.ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
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
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache
