"""How much memory a training takes, and how long: arithmetic over a model's structure. No torch, nothing is loaded.

In: a `Structure` (counted on the meta device), settings, a GPU of the table. Out: bytes by part, floating-point
operations, hours. Weights, adapter, gradients and optimiser are exact to a few percent (tests compare them with real
tensors); activations are what autograd keeps of transformers' own layers under LoRA, to about a fifth; hours rest on
the utilisation assumed beside them. What is assumed is named, so that a plan can print it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentflow.models.shapes import Structure
from agentflow.training.config import OptimiserSettings

GIB = 2**30
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Of a weight in NF4 with double quantisation: 4 bits, an 8-bit scale for 64 weights, a 32-bit one for 256 scales.
HEAD_TILE = 4096
# Tokens whose logits TRL's fused output layer has at once (trl 1.16), times as many vocabulary entries.
OVERHEAD_BYTES = 1.5 * GIB
# CUDA context, library workspaces and fragmentation: assumed.
UTILISATION = 0.40
NF4_UTILISATION = 0.25
# Share of the peak that training reaches: assumed; with NF4 every layer is dequantised on each pass.
DECODE_UTILISATION = 0.30
# Share of the memory bandwidth that decoding reaches: assumed.
LAYER_S = 1e-3
# Seconds a layer takes at least in one decoding step, since its kernels are started one by one: assumed.


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker describes it."""

    name: str
    memory_gib: float
    # What a process can use of it.
    tflops: float
    # Dense bfloat16 peak with 32-bit accumulation, 10^12 operations a second.
    bandwidth: float
    # Of its memory, GB/s.


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 79.1, 989.0, 3350.0),
        Gpu("H200", 139.8, 989.0, 4800.0),
        Gpu("A100-80", 79.1, 312.0, 2039.0),
        Gpu("L40S", 44.4, 362.0, 864.0),
        Gpu("RTX4090", 23.5, 165.2, 1008.0),
    )
}


@dataclass(frozen=True)
class Load:
    """What one worker has in memory at once while it trains."""

    rows: int
    # Of one forward pass.
    tokens: int
    # Of the longest row.
    optimiser: OptimiserSettings
    four_bit: bool = False
    checkpointing: bool = False
    dropout: bool = True
    # Whether the adapter's dropout is above 0: it keeps a mask.
    workers: int = 1
    precision: int = 2
    # Bytes of a frozen weight that is not in NF4: 2 on a GPU, 4 on a CPU.
    prepared: bool = True
    # Whether PEFT's preparation keeps in float32 what is not in NF4 (SFT and cold start).


def weight_bytes(structure: Structure, load: Load) -> float:
    """Of the frozen base; only linear layers are in NF4."""
    if load.four_bit:
        rest = 4 if load.prepared else load.precision
        whole = structure.linear * NF4_BYTES + (structure.parameters - structure.linear) * rest
    else:
        whole = float(structure.parameters * load.precision)
    if load.optimiser.sharding not in ("fsdp2", "zero3"):
        return whole
    gathered = structure.largest_layer * (NF4_BYTES if load.four_bit else load.precision)
    return whole / load.workers + gathered


def training_memory(structure: Structure, load: Load) -> dict[str, float]:
    """Bytes by part on one worker: weights, adapter, gradients, optimiser, activations, logits."""
    # Adapters are float32 (PEFT); TRL casts those of a quantised base to bfloat16 for SFT.
    adapter = structure.trainable * (2.0 if load.four_bit else 4.0)
    states = 2.0 if "8bit" in load.optimiser.name else 2 * adapter / structure.trainable
    split = load.workers if load.optimiser.sharding != "none" else 1
    whole = load.workers if load.optimiser.sharding in ("fsdp2", "zero3") else 1
    tile = min(load.rows * load.tokens, HEAD_TILE) * min(structure.vocab, HEAD_TILE) * 4.0
    return {
        "weights": weight_bytes(structure, load),
        "adapter": adapter / whole,
        "gradients": adapter / split,
        "optimiser": structure.trainable * states / split,
        "activations": activation_bytes(structure, load),
        "logits": tile + load.rows * load.tokens * structure.hidden * 4.0,
    }


def layer_activation_bytes(structure: Structure, load: Load) -> float:
    """What autograd keeps of one token in one decoder layer.

    Two norms keep their input in float32; attention keeps q, k, v and its output; the gated feed-forward keeps gate,
    its activation and up; every adapted layer keeps its input, and with dropout a mask of a byte.
    """
    bits = load.precision
    q, kv = structure.heads * structure.head_dim, structure.kv_heads * structure.head_dim
    norms = 2 * 4 * structure.hidden
    attention = bits * (2 * q + 2 * kv)
    feed_forward = 3 * bits * structure.intermediate
    return norms + attention + feed_forward + structure.adapter_inputs * (bits + int(load.dropout))


def activation_bytes(structure: Structure, load: Load) -> float:
    """Of one forward pass; with checkpointing, every layer's input and one layer's activations."""
    layer = layer_activation_bytes(structure, load)
    kept = (
        structure.layers * structure.hidden * load.precision + layer if load.checkpointing else structure.layers * layer
    )
    return load.rows * load.tokens * kept


def cache_bytes(structure: Structure, rows: int, tokens: int, precision: int = 2) -> float:
    """Of the key-value cache while `rows` are decoded up to `tokens` each."""
    return 2.0 * structure.layers * structure.kv_heads * structure.head_dim * precision * rows * tokens


def decode_memory(structure: Structure, rows: int, tokens: int, precision: int = 2) -> dict[str, float]:
    """Bytes while completions are sampled by our engine: cache, and the last position's logits several times over."""
    # Logits, float32 copy, log-probabilities, and the double-precision cumulative sum with its copy.
    sampling = rows * structure.vocab * (precision + 4 + 4 + 8 + 8.0)
    return {"KV cache": cache_bytes(structure, rows, tokens, precision), "logits": sampling}


def total(parts: Mapping[str, float]) -> float:
    """Bytes of all parts and the assumed overhead."""
    return sum(parts.values()) + OVERHEAD_BYTES


# ---------------------------------------------------------------- time
def training_flops(structure: Structure, tokens: int, checkpointing: bool = False) -> float:
    """Operations on one token in a row of `tokens`, forward and backward.

    2 N forward and 2 N backward, N the weights that are multiplied with (the embedding is looked up, not multiplied):
    the frozen base needs no gradient of its own, which is why it is not 6 N. 6 for every adapter weight. Causal
    attention 2 s q forward and twice that backward in every layer. Checkpointing runs the forward pass once more.
    """
    frozen, attention = _forward(structure, tokens)
    forward = frozen + attention
    return forward + frozen + 2 * attention + 6 * structure.trainable + (forward if checkpointing else 0)


def _forward(structure: Structure, tokens: int) -> tuple[float, float]:
    frozen = 2.0 * (structure.linear + structure.vocab * structure.hidden)
    return frozen, 2.0 * tokens * structure.heads * structure.head_dim * structure.layers


def training_hours(structure: Structure, gpu: Gpu, load: Load, tokens: float, row_tokens: int) -> float:
    """GPU hours of training on `tokens` tokens in rows of `row_tokens`, summed over all GPUs."""
    utilisation = NF4_UTILISATION if load.four_bit else UTILISATION
    operations = tokens * training_flops(structure, row_tokens, load.checkpointing)
    return operations / (gpu.tflops * 1e12 * utilisation) / 3600


def decode_hours(structure: Structure, gpu: Gpu, rows: int, steps: float, tokens: int, weights: float) -> float:
    """GPU hours of `steps` decoding steps of `rows` rows by our engine: each reads all weights (bytes) and half a full
    cache, or is held up by starting its kernels.
    """
    read = weights + cache_bytes(structure, rows, tokens) / 2
    return steps * max(read / (gpu.bandwidth * 1e9 * DECODE_UTILISATION), structure.layers * LAYER_S) / 3600
