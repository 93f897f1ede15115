"""Attention within the rows of a packed sequence, by torch's own kernels: on a GPU its variable-length flash attention
(no package to build), on a CPU one causal product per row.

In: query, key and value of one sequence into which rows were joined, and where each row begins (`cu_seq_lens_q`, which
TRL's padding-free collator computes). Out: what the rows would give apart, at the cost of the rows apart: a mask over
the whole sequence, which is what `sdpa` gets, costs the square of its length. Ours, on `torch.nn.attention.varlen`.
"""

from __future__ import annotations

from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "within_borders"
# By which transformers knows it. It has no mask function there, so none is made.
SHARED_HEADS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen.varlen_attn).parameters else {}
# Several heads share a key head. Before torch 2.12 the kernel did so without being asked.
LARGEST_HEAD = 256
# Of the kernel.
UNKNOWN = ("softcap", "s_aux", "position_bias")
# What some models hand to their attention, and what would be left out here.
HINT = "; set optimiser.attention to 'sdpa' or 'eager'"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row.

    query [1, heads, tokens, size], key and value [1, key heads, tokens, size]; cu_seq_lens_q [rows + 1] the first token
    of each row and the end. Returns [1, tokens, heads, size] and no weights. Raises ValueError for a sequence without
    borders, with a mask, or with what changes the weights: dropout, a soft cap, sinks, a bias.
    """
    if cu_seq_lens_q is None or max_length_q is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError(
            f"{NAME} attends within rows joined into one sequence with their borders, and got another{HINT}"
        )
    asked = {"dropout": dropout or None, **{name: more.get(name) for name in UNKNOWN}}
    unknown = [name for name, value in asked.items() if value is not None]
    if unknown or more.get("is_causal") is False:
        raise ValueError(f"{NAME} is causal and knows no {', '.join(unknown) or 'other'} attention{HINT}")
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    if q.is_cuda:
        return _on_gpu(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window)[None], None
    if sliding_window is not None and max_length_q > sliding_window:
        raise ValueError(f"{NAME} knows no sliding window on a CPU, and rows are longer than {sliding_window}{HINT}")
    borders = pairwise(cu_seq_lens_q.tolist())
    rows = [_causal(q[start:end], k[start:end], v[start:end], scaling) for start, end in borders]
    return torch.cat(rows)[None], None


def _on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    if query.dtype == torch.float32:
        # The kernel computes in 16 bits, and autocast does not know it.
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.bfloat16
        query, key, value = query.to(half), key.to(half), value.to(half)
    causal = (-1 if window is None else window - 1, 0)
    found = varlen.varlen_attn(
        query, key, value, borders, borders, longest, longest, scale=scaling, window_size=causal, **SHARED_HEADS
    )
    assert isinstance(found, torch.Tensor)
    return found


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """One row: [tokens, heads, size] of each in, and out."""
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    shared = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=shared)[0].transpose(0, 1)


def fits(model: Any) -> bool:
    """Whether `model` attends through transformers' interface, causally and with nothing but what `attend` knows.

    Only models for which transformers itself would take `sdpa` do. Without a mask, one that computes attention by
    itself would look into the future.
    """
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    special = ("sliding_window", "attention_chunk_size", "v_head_dim", "attn_logit_softcapping")
    return (
        type(model)._supports_attention_backend
        and model.config._attn_implementation == "sdpa"
        and size <= LARGEST_HEAD
        and not any(getattr(config, name, None) for name in special)
    )


def use(model: Any) -> None:
    """Let `model` attend within borders from now on, if it fits; otherwise it keeps its mask."""
    if fits(model):
        AttentionInterface.register(NAME, attend)
        model.set_attn_implementation(NAME)
