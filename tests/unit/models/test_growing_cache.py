"""The cache that is written in place holds what transformers' own holds, whatever happens to its rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from agentflow.models.growing_cache import ROOM, growing
from agentflow.models.heads import SharedHead


def logits(model: Any, cache: DynamicCache, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, past_key_values=cache, use_cache=True).logits


def test_it_answers_as_transformers_own_while_it_grows_and_loses_rows(tiny_model):
    torch.manual_seed(0)
    theirs, ours = DynamicCache(config=tiny_model.config), growing(DynamicCache(config=tiny_model.config))
    rows = torch.arange(4)
    for step in range(2 * ROOM + 3):
        if step in (5, ROOM + 2):
            rows = rows[1:]
            kept = torch.arange(1, len(rows) + 1)
            theirs.batch_select_indices(kept)
            ours.batch_select_indices(kept)
        ids = torch.randint(0, 100, (len(rows), 7 if step == 0 else 1))
        torch.testing.assert_close(logits(tiny_model, ours, ids), logits(tiny_model, theirs, ids))
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_token_is_written_in_place(tiny_model):
    cache = growing(DynamicCache(config=tiny_model.config))
    logits(tiny_model, cache, torch.ones((2, 5), dtype=torch.long))
    places = [layer.keys.data_ptr() for layer in cache.layers]
    for _ in range(ROOM):
        logits(tiny_model, cache, torch.ones((2, 1), dtype=torch.long))
    assert [layer.keys.data_ptr() for layer in cache.layers] == places


def test_a_cropped_cache_goes_on_from_where_it_was_cut(tiny_model):
    theirs, ours = DynamicCache(config=tiny_model.config), growing(DynamicCache(config=tiny_model.config))
    start, end = torch.arange(9).unsqueeze(0), torch.arange(20, 24).unsqueeze(0)
    for cache in (theirs, ours):
        logits(tiny_model, cache, start)
        cache.crop(-3)
    torch.testing.assert_close(logits(tiny_model, ours, end), logits(tiny_model, theirs, end))


def test_batches_that_share_a_head_do_not_write_into_it_or_into_each_other(tiny_model, tiny_tokenizer):
    head = SharedHead(tiny_model, tiny_tokenizer, "Think step by step.")
    ids = torch.arange(10, 16).unsqueeze(0)
    first, second = growing(head.cache(3)), growing(head.cache(1))
    expected = logits(tiny_model, head.cache(1), ids)
    logits(tiny_model, first, torch.full((3, 6), 50))
    torch.testing.assert_close(logits(tiny_model, second, ids), expected)
    torch.testing.assert_close(logits(tiny_model, growing(head.cache(1)), ids), expected)


def test_rows_that_leave_free_their_memory_and_the_rest_keep_their_room(tiny_model):
    cache = growing(DynamicCache(config=tiny_model.config))
    logits(tiny_model, cache, torch.ones((8, 5), dtype=torch.long))
    whole = [layer.keys.untyped_storage().nbytes() for layer in cache.layers]
    cache.batch_select_indices(torch.tensor([1, 6]))
    logits(tiny_model, cache, torch.ones((2, 1), dtype=torch.long))
    assert [layer.keys.untyped_storage().nbytes() for layer in cache.layers] == [nbytes // 4 for nbytes in whole]
