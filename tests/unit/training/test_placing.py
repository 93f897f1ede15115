"""Precision, attention, sharding and vLLM as arguments, and what is refused before a training starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTConfig

from agentflow.access import Access
from agentflow.config import identity
from agentflow.errors import ConfigError
from agentflow.models import borders
from agentflow.models.settings import VllmSettings
from agentflow.stages.grpo import GrpoConfig
from agentflow.training import checks
from agentflow.training.checks import (
    check_compiling,
    check_policy,
    check_sharded,
    check_sharding,
    check_surroundings,
)
from agentflow.training.config import OptimiserSettings, SupervisedSettings
from agentflow.training.jobs import PolicyJob
from agentflow.training.placing import (
    base_arguments,
    compile_layers,
    deepspeed_config,
    keep_borders,
    optimiser_name,
    quantised_arguments,
    sharding_arguments,
    vllm_arguments,
)
from agentflow.training.policy import policy_arguments

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def optimiser(**fields) -> OptimiserSettings:
    return OptimiserSettings(**fields)


def test_where_a_model_is_trained_changes_no_fingerprint_and_what_samples_it_does():
    placed = optimiser(attention="eager", sharding="fsdp2", device="cpu")
    assert identity(SupervisedSettings(optimiser=placed)) == identity(SupervisedSettings())
    policy = GrpoConfig()
    elsewhere = VllmSettings(memory_share=0.5, sync="merged")
    moved = policy.model_copy(update={"gradient_checkpointing": True, "vllm": elsewhere})
    assert identity(moved) == identity(policy)
    assert identity(policy.model_copy(update={"engine": "vllm"})) != identity(policy)


@no_gpu
def test_on_a_cpu_the_base_is_float32_with_transformers_own_attention():
    assert base_arguments(optimiser()) == {"dtype": torch.float32, "attention": None}
    assert base_arguments(optimiser(attention="eager"))["attention"] == "eager"


def test_fsdp2_reaches_the_trainers_arguments_and_recomputes_by_its_own_wrapper(tmp_path):
    arguments = sharding_arguments(optimiser(sharding="fsdp2"), gradient_checkpointing=True)
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **arguments)
    assert config.fsdp is True and not config.gradient_checkpointing
    plugin = config.fsdp_plugin_args
    assert (plugin["fsdp_version"], plugin["reshard_after_forward"], plugin["activation_checkpointing"]) == (2,) + (
        True,
    ) * 2
    assert plugin["state_dict_type"] == "FULL_STATE_DICT"
    PartialState._reset_state()


def test_without_sharding_nothing_but_checkpointing_is_said():
    assert sharding_arguments(optimiser(), True) == {"gradient_checkpointing": True}


@pytest.mark.parametrize("name, stage", [("zero2", 2), ("zero3", 3)])
def test_deepspeed_gets_its_stage_and_takes_the_rest_from_the_trainer(name, stage):
    config = sharding_arguments(optimiser(sharding=name), False)["deepspeed"]
    assert config == deepspeed_config(name) and config["zero_optimization"]["stage"] == stage
    assert {config[key] for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")} == {"auto"}


@pytest.mark.parametrize("sharding, storage", [("none", torch.uint8), ("zero2", torch.uint8), ("fsdp2", None)])
def test_a_sharded_base_in_four_bits_is_stored_in_the_dtype_it_computes_in(sharding, storage):
    config = quantised_arguments(optimiser(sharding=sharding))["quantization_config"]
    assert config.bnb_4bit_quant_storage == (storage or config.bnb_4bit_compute_dtype)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)


@no_gpu
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"attention": "flash_attention_2"}, "'flash_attention_2' computes on a GPU only"),
        ({"sharding": "zero3"}, "'zero3' is DeepSpeed's, which is not installed; `pip install deepspeed`"),
    ],
)
def test_what_the_surroundings_lack_is_said_with_what_to_do(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_surroundings(optimiser(**fields))


@no_gpu
def test_layers_are_compiled_on_a_gpu_only_and_not_with_split_weights():
    check_compiling(SupervisedSettings(), 1)
    with pytest.raises(ConfigError, match="compiles for a GPU, and this training runs on the CPU; set it to false"):
        check_compiling(SupervisedSettings(compile_layers=True), 1)


def test_layers_are_not_compiled_with_what_they_were_never_compiled_with(monkeypatch):
    monkeypatch.setattr(checks, "uses_gpu", lambda _: True)
    check_compiling(SupervisedSettings(compile_layers=True), 1)
    with pytest.raises(ConfigError, match="never tried together with four_bit, 2 workers; leave one of them out"):
        check_compiling(SupervisedSettings(compile_layers=True, four_bit=True), 2)


def test_a_model_without_known_layers_is_not_silently_left_uncompiled():
    with pytest.raises(ConfigError, match="finds no layers in Linear"):
        compile_layers(torch.nn.Linear(1, 1))


def model_of(kind: str, **fields):
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, **fields
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("kind", "fields", "kernel"),
    [
        ("llama", {"num_key_value_heads": 1}, borders.NAME),
        ("qwen3", {"num_key_value_heads": 1, "head_dim": 16}, borders.NAME),
        ("llama", {"head_dim": 512}, "sdpa"),  # larger than the kernel takes
        ("mistral", {"num_key_value_heads": 1, "sliding_window": 8}, "sdpa"),
        ("gemma2", {"num_key_value_heads": 1, "head_dim": 16}, "eager"),  # caps its scores
        ("bloom", {"n_head": 2, "n_layer": 1}, "eager"),  # masks by itself, or not at all
    ],
)
def test_packed_rows_attend_within_their_borders_where_the_model_lets_them(kind, fields, kernel):
    model = model_of(kind, **fields)
    keep_borders(model, optimiser(attention="sdpa"))
    assert model.config._attn_implementation != borders.NAME, "another kernel was asked for"
    keep_borders(model, optimiser())
    assert model.config._attn_implementation == kernel


@no_gpu
def test_on_a_cpu_the_optimiser_is_the_one_that_was_named():
    assert optimiser_name(optimiser()) == "adamw_torch"
    assert optimiser_name(optimiser(name="paged_adamw_8bit")) == "paged_adamw_8bit"


def test_a_model_is_not_split_over_one_worker():
    check_sharding(optimiser(sharding="fsdp2"), 2)
    with pytest.raises(ConfigError, match="this one has 1; give the stage more"):
        check_sharding(optimiser(sharding="fsdp2"), 1)


def test_sharding_that_would_silently_not_happen_is_an_error():
    """accelerate trains whole where it cannot shard, and says nothing."""
    off = SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False)
    check_sharded(off, optimiser())
    for sharding in ("fsdp2", "zero2"):
        with pytest.raises(ConfigError, match=f"'{sharding}' has no effect here: models are split over GPUs"):
            check_sharded(off, optimiser(sharding=sharding))
    check_sharded(SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False), optimiser(sharding="fsdp2"))


@no_gpu
@pytest.mark.parametrize(
    "config, workers, message",
    [
        (GrpoConfig(optimiser=optimiser(accumulation=8, sharding="fsdp2")), 2, "with split weights each step"),
        (GrpoConfig(engine="vllm"), 1, r"needs the package vllm .*use engine 'builtin'"),
    ],
)
def test_a_policy_that_cannot_be_trained_here_is_refused(config, workers, message):
    with pytest.raises(ConfigError, match=message):
        check_policy(config, workers)


def test_vllm_is_told_where_to_run():
    colocated = vllm_arguments(VllmSettings(memory_share=0.4, tensor_parallel=2, sleep=True))
    assert colocated["use_vllm"] and colocated["vllm_mode"] == "colocate"
    assert (colocated["vllm_gpu_memory_utilization"], colocated["vllm_tensor_parallel_size"]) == (0.4, 2)
    served = vllm_arguments(VllmSettings(mode="server", server_url="http://gpu:8000"))
    assert (served["vllm_mode"], served["vllm_server_base_url"]) == ("server", "http://gpu:8000")


def test_the_policys_trainer_is_told_about_vllm_and_checkpointing(tmp_path):
    def arguments(**fields):
        config = GrpoConfig(**fields)
        access = Access(ledger_url=str(tmp_path / "never-opened.db"), run_id="run")
        folders = dict.fromkeys(("questions", "base", "adapter", "out"), tmp_path)
        return policy_arguments(PolicyJob(config=config, question_ids=(), access=access, **folders))

    plain = arguments()
    assert not plain.use_vllm and not plain.gradient_checkpointing
    served = VllmSettings(mode="server", server_url="http://gpu:8000")
    with_vllm = arguments(engine="vllm", vllm=served, gradient_checkpointing=True)
    assert with_vllm.use_vllm and with_vllm.gradient_checkpointing
    assert (with_vllm.vllm_mode, with_vllm.vllm_server_base_url) == ("server", "http://gpu:8000")
    PartialState._reset_state()
