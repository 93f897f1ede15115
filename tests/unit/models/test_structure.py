"""Models counted without their weights: published sizes, adapters by formula, what is not known."""

from __future__ import annotations

import pytest
from peft import LoraConfig

from agentflow.errors import InputError
from agentflow.models.loading import load_model
from agentflow.models.shapes import SHAPES
from agentflow.models.sources import HubModel, LocalModel, TinyModel
from agentflow.models.structure import config_of, measure, shaped
from agentflow.training.config import LoraSettings
from agentflow.training.placing import lora_config

PUBLISHED = {
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_bundled_shape_has_the_published_number_of_parameters_and_the_formulas_adapter(name):
    shape, lora = SHAPES[name], LoraSettings(rank=16)
    structure = measure(shaped(name), lora_config(lora))
    assert structure.parameters == PUBLISHED[name]
    hidden, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    head = shape.get("head_dim") or hidden // shape["num_attention_heads"]
    q, kv = head * shape["num_attention_heads"], head * shape["num_key_value_heads"]
    pairs = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    assert structure.trainable == layers * sum(lora.rank * (a + b) for a, b in pairs)
    assert structure.adapter_inputs == sum(a for a, _ in pairs)
    assert structure.linear == layers * sum(a * b for a, b in pairs)
    assert (structure.layers, structure.hidden, structure.vocab) == (layers, hidden, shape["vocab_size"])
    assert (structure.heads * structure.head_dim, structure.kv_heads * structure.head_dim) == (q, kv)


def test_fewer_targets_are_a_smaller_adapter():
    config, whole = shaped("Qwen/Qwen3-1.7B"), measure(shaped("Qwen/Qwen3-1.7B"), lora_config(LoraSettings()))
    less = measure(config, LoraConfig(r=16, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert less.trainable == 28 * 16 * (2048 + 2048) < whole.trainable
    assert less.parameters == whole.parameters


def test_a_local_folder_is_measured_by_its_configuration(tiny_base):
    structure = measure(config_of(LocalModel(path=tiny_base)), lora_config(LoraSettings(rank=4)))
    assert structure.parameters == sum(p.numel() for p in load_model(tiny_base).parameters())
    assert structure == measure(config_of(TinyModel()), lora_config(LoraSettings(rank=4)))


def test_a_hub_model_that_is_not_bundled_is_not_asked_for_over_the_network():
    with pytest.raises(InputError, match=r"shape of 'some/model' is not known here: .*Qwen/Qwen3-1\.7B"):
        config_of(HubModel(id="some/model"))


def test_targets_that_the_model_does_not_have_are_said():
    with pytest.raises(InputError, match=r"lora\.targets \['no_such_layer'\]"):
        measure(config_of(TinyModel()), lora_config(LoraSettings(targets=("no_such_layer",))))
