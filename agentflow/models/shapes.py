"""Architectures of the papers' models, so that their sizes are known without their weights. No torch here.

The numbers are the published configurations' (`config.json` on the hub); tests build every one on the meta device and
compare its number of parameters with the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LLAMA_3_1 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
}
_QWEN2_5 = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_LLAMA_8B = {
    **_LLAMA_3_1,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_LLAMA_70B = {
    **_LLAMA_3_1,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
_QWEN3_1_7B = {
    **_QWEN3,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "tie_word_embeddings": True,
}
_QWEN2_5_7B = {
    **_QWEN2_5,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}

SHAPES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_70B,
    "Qwen/Qwen3-1.7B": _QWEN3_1_7B,
    "Qwen/Qwen2.5-7B": _QWEN2_5_7B,
    "Qwen/Qwen2.5-7B-Instruct": {**_QWEN2_5_7B, "max_position_embeddings": 32768},
}
# By hub id; fields as transformers' configurations name them.


@dataclass(frozen=True)
class Structure:
    """What a model is made of, counted on the meta device."""

    parameters: int
    # Of the base, tied weights once.
    trainable: int
    # Of the adapter.
    linear: int
    # Of the base, in the linear layers that four_bit stores in NF4: all but embeddings, norms and the output layer.
    largest_layer: int
    # Parameters of the largest part that FSDP2 gathers at once: a decoder layer or an embedding.
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    adapter_inputs: int
    # Sum over one layer's adapted linear layers of their input widths: what LoRA keeps of each token.
