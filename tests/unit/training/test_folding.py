"""Folding the adapter in for sampling: the same policy meanwhile, and the same bits afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from agentflow.models.loading import load_model
from agentflow.training.config import LoraSettings
from agentflow.training.folding import folded, folded_if_sound
from agentflow.training.placing import lora_config

IDS = torch.tensor([[5, 6, 7, 8]])


def adapted(base, dtype: torch.dtype):
    """A model whose adapter really changes something."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(base, dtype=dtype), lora_config(LoraSettings(rank=4, dropout=0.0))).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def base_bits(model) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters() if not weight.requires_grad]


def test_sixteen_bit_weights_come_back_bit_for_bit_after_many_folds(tiny_base):
    model = adapted(tiny_base, torch.bfloat16)
    before = base_bits(model)
    for _ in range(20):
        with folded(model):
            assert any((a != b).any() for a, b in zip(before, base_bits(model), strict=True)), "it is folded in"
    assert all((a == b).all() for a, b in zip(before, base_bits(model), strict=True))
    assert not any(getattr(layer, "merged", False) for layer in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_a_folded_model_says_what_the_unfolded_one_says(tiny_base, dtype, bound):
    model = adapted(tiny_base, dtype)
    apart = model(input_ids=IDS).logits.float()
    with folded_if_sound(model):
        together = model(input_ids=IDS).logits.float()
    assert (apart - together).abs().max() < bound * apart.abs().max()
    assert torch.allclose(model(input_ids=IDS).logits.float(), apart, atol=1e-5)


def test_an_error_while_folded_leaves_the_weights_as_they_were(tiny_base):
    model = adapted(tiny_base, torch.bfloat16)
    before = base_bits(model)
    with pytest.raises(ZeroDivisionError), folded(model):
        raise ZeroDivisionError
    assert all((a == b).all() for a, b in zip(before, base_bits(model), strict=True))
