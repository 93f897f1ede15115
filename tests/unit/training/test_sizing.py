"""The estimate of a training's memory, against real tensors of a small model, and as a formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentflow.models.loading import convert
from agentflow.models.shapes import Structure
from agentflow.models.sources import TinyModel
from agentflow.models.structure import config_of, measure
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from agentflow.training.placing import lora_config
from agentflow.training.sizing import (
    GPUS,
    Load,
    activation_bytes,
    cache_bytes,
    decode_hours,
    total,
    training_flops,
    training_hours,
    training_memory,
    weight_bytes,
)
from agentflow.training.supervised import trainable_model

SMALL = TinyModel(layers=2, hidden=256)
LORA = LoraSettings(rank=8)
LLAMA_8B = Structure(
    parameters=8_030_261_248, trainable=41_943_040, linear=6_979_321_856, largest_layer=525_336_576, hidden=4096,
    layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocab=128256, adapter_inputs=38912,
)  # fmt: skip
LOAD = Load(rows=4, tokens=2048, optimiser=OptimiserSettings())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    convert(SMALL, folder)
    return folder


def small_structure() -> Structure:
    return measure(config_of(SMALL), lora_config(LORA))


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stepped(model: Any) -> torch.optim.Optimizer:
    """One AdamW step, after which gradients and optimiser states exist."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    model(input_ids=torch.ones(1, 8, dtype=torch.long), labels=torch.ones(1, 8, dtype=torch.long)).loss.backward()
    optimiser.step()
    return optimiser


# ---------------------------------------------------------------- against real tensors
def test_weights_adapter_gradients_and_optimiser_are_those_of_a_real_step_to_a_percent(small):
    model = trainable_model(small, None, SupervisedSettings(lora=LORA))
    optimiser = stepped(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = training_memory(small_structure(), replace(LOAD, precision=4))
    assert parts["weights"] == pytest.approx(size(p for p in model.parameters() if not p.requires_grad), rel=0.01)
    assert parts["adapter"] == pytest.approx(size(trained), rel=0.01)
    assert parts["gradients"] == pytest.approx(size(p.grad for p in trained), rel=0.01)
    moments = [s[name] for s in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert parts["optimiser"] == pytest.approx(size(moments), rel=0.01)


def test_a_base_in_four_bits_takes_what_bitsandbytes_really_holds(small):
    model = trainable_model(small, None, SupervisedSettings(lora=LORA, four_bit=True))
    held = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            continue
        held += size([parameter.data])
        if (state := getattr(parameter, "quant_state", None)) is not None:
            held += size([state.absmax, state.state2.absmax])
    assert weight_bytes(small_structure(), replace(LOAD, four_bit=True)) == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_activations_are_what_autograd_keeps_to_a_fifth(small, dropout):
    """As on a GPU: bfloat16 base, autocast, float32 adapters; on the CPU, whose attention keeps the same tensors.

    But for dropout's mask: a byte on a GPU, which is what is estimated, and a float32 on a CPU.
    """
    lora = LoraSettings(rank=8, dropout=dropout)
    from peft import get_peft_model

    from agentflow.models.loading import load_model

    model = get_peft_model(load_model(small, dtype=torch.bfloat16), lora_config(lora)).train()
    model.enable_input_require_grads()
    rows, tokens = 2, 128
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
        model.get_base_model().get_decoder()(input_ids=torch.ones(rows, tokens, dtype=torch.long), use_cache=False)
    structure, load = small_structure(), replace(LOAD, rows=rows, tokens=tokens, dropout=dropout > 0)
    masks = 3 * structure.layers * structure.adapter_inputs * rows * tokens if dropout else 0
    assert activation_bytes(structure, load) + masks == pytest.approx(sum(kept.values()), rel=0.2)


# ---------------------------------------------------------------- as a formula
@given(rows=st.integers(1, 64), tokens=st.integers(16, 8192), checkpointing=st.booleans(), four_bit=st.booleans())
def test_more_rows_and_tokens_never_take_less_and_saving_options_never_take_more(rows, tokens, checkpointing, four_bit):
    load = replace(LOAD, rows=rows, tokens=tokens, checkpointing=checkpointing, four_bit=four_bit)
    here = total(training_memory(LLAMA_8B, load))
    assert total(training_memory(LLAMA_8B, replace(load, rows=rows + 1))) > here
    assert total(training_memory(LLAMA_8B, replace(load, tokens=tokens + 1))) > here
    assert total(training_memory(LLAMA_8B, replace(load, checkpointing=True))) <= here
    assert total(training_memory(LLAMA_8B, replace(load, four_bit=True))) <= here
    sharded = replace(load, optimiser=OptimiserSettings(sharding="fsdp2"), workers=4)
    assert total(training_memory(LLAMA_8B, sharded)) < here
    zero2 = replace(load, optimiser=OptimiserSettings(sharding="zero2"), workers=4)
    assert total(training_memory(LLAMA_8B, sharded)) < total(training_memory(LLAMA_8B, zero2)) < here
    eight = replace(load, optimiser=OptimiserSettings(name="adamw_8bit"))
    assert total(training_memory(LLAMA_8B, eight)) < here


def test_an_8b_model_takes_what_its_papers_say():
    """NF4 with double quantisation is 0.516 bytes a weight; QLoRA's paper says 0.127 bits of constants."""
    assert weight_bytes(LLAMA_8B, LOAD) == 2 * LLAMA_8B.parameters
    four = weight_bytes(LLAMA_8B, replace(LOAD, four_bit=True))
    rest = LLAMA_8B.parameters - LLAMA_8B.linear
    assert (four - 4 * rest) * 8 / LLAMA_8B.linear == pytest.approx(4 + 0.127, abs=1e-3)
    assert cache_bytes(LLAMA_8B, 1, 1) == 131072, "128 KiB a token, as for every Llama 3 8B in bf16"


def test_frozen_weights_cost_four_operations_a_token_and_checkpointing_two_more():
    frozen = LLAMA_8B.linear + LLAMA_8B.vocab * LLAMA_8B.hidden
    short = training_flops(LLAMA_8B, 0)
    assert short == 4 * frozen + 6 * LLAMA_8B.trainable
    assert training_flops(LLAMA_8B, 0, checkpointing=True) == short + 2 * frozen
    assert training_flops(LLAMA_8B, 2048) == short + 6 * 2048 * 4096 * 32


def test_hours_follow_the_gpu_and_the_work():
    hours = training_hours(LLAMA_8B, GPUS["H100"], LOAD, 1e9, 2048)
    assert training_hours(LLAMA_8B, GPUS["H100"], LOAD, 2e9, 2048) == pytest.approx(2 * hours)
    slower = training_hours(LLAMA_8B, GPUS["A100-80"], LOAD, 1e9, 2048)
    assert slower / hours == pytest.approx(989 / 312)
    once, twice = (decode_hours(LLAMA_8B, GPUS["H100"], 16, steps, 768, 140e9) for steps in (1e5, 2e5))
    assert twice == pytest.approx(2 * once)
    assert decode_hours(LLAMA_8B, GPUS["H200"], 16, 1e5, 768, 140e9) < once
    small = decode_hours(LLAMA_8B, GPUS["H200"], 16, 1e5, 768, 1e9)
    assert small == pytest.approx(1e5 * 32e-3 / 3600), "a small model waits for its kernels, a millisecond a layer"
