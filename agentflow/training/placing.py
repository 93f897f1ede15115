"""How a model is put where it is trained, as arguments of transformers, PEFT and TRL.

In: settings. Out: how the frozen base is loaded (dtype, quantisation, attention), what adapter it gets, and how both
are split over workers (FSDP2, DeepSpeed).
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from agentflow.errors import ConfigError
from agentflow.models.loading import nf4
from agentflow.models.settings import VllmSettings
from agentflow.training.checks import uses_gpu
from agentflow.training.config import LoraSettings, OptimiserSettings


def base_dtype(optimiser: OptimiserSettings) -> torch.dtype:
    """Of the frozen base: bfloat16 on a GPU; float32 on a CPU, which has no fast bfloat16. Adapters stay float32."""
    return torch.bfloat16 if uses_gpu(optimiser) else torch.float32


def base_arguments(optimiser: OptimiserSettings, packed: bool = False) -> dict[str, Any]:
    """Of `load_model`: precision and attention kernel."""
    return {"dtype": base_dtype(optimiser), "attention": attention_kernel(optimiser, packed)}


def attention_kernel(optimiser: OptimiserSettings, packed: bool) -> str | None:
    """transformers' name of the kernel that computes attention, None for its own choice.

    packed: the rows of a batch come as one sequence, in which attention must not cross their borders.
    """
    if optimiser.attention != "auto":
        return optimiser.attention
    flash = packed and uses_gpu(optimiser) and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else None


def keep_borders(model: Any, optimiser: OptimiserSettings) -> None:
    """Where transformers was left its choice over packed rows, and its choice computes all of them under one mask, use
    torch's variable-length kernel instead (models.borders), for models it can compute.
    """
    if optimiser.attention == "auto":
        # Here, since a torch without that kernel can still train rows that are not packed.
        from agentflow.models import borders

        borders.use(model)


def compile_layers(model: Any) -> None:
    """torch.compile on every layer, in place: names of weights stay, and equal layers share one compilation.

    Raises ConfigError for a model whose layers are not known as such.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"compile_layers finds no layers in {type(model).__name__}; set it to false")
    for layer in layers:
        layer.compile()


def optimiser_name(optimiser: OptimiserSettings) -> str:
    """transformers' name of the optimiser: on a GPU, plain AdamW does its whole step in a few kernels."""
    return "adamw_torch_fused" if optimiser.name == "adamw_torch" and uses_gpu(optimiser) else optimiser.name


def without_casts(model: Any, optimiser: OptimiserSettings) -> AbstractContextManager[None]:
    """On a GPU, adapters take their input in 16 bits, as it comes, instead of through a copy in the 32 bits of their
    weights: autocast multiplies in 16 bits either way, and the copies are a third of a layer's memory.
    """
    return disable_input_dtype_casting(model, active=uses_gpu(optimiser) and optimiser.sharding == "none")


def quantised_arguments(optimiser: OptimiserSettings, packed: bool = False) -> dict[str, Any]:
    """Of `from_pretrained` for a base in NF4 with double quantisation (QLoRA; paper A [P]).

    A sharded base stores its 4-bit weights inside tensors of the dtype it computes in, since FSDP2 and ZeRO-3 can split
    floating tensors only (bitsandbytes' `quant_storage`).
    """
    dtype = base_dtype(optimiser)
    storage = dtype if optimiser.sharding in ("fsdp2", "zero3") else None
    return {
        "dtype": dtype,
        "attn_implementation": attention_kernel(optimiser, packed),
        **nf4(dtype, on_gpu=uses_gpu(optimiser), storage=storage),
    }


def lora_config(lora: LoraSettings) -> LoraConfig:
    """PEFT's configuration of an adapter."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )


def sharding_arguments(optimiser: OptimiserSettings, gradient_checkpointing: bool) -> dict[str, Any]:
    """Of `transformers.TrainingArguments`: how the model is split, and activations recomputed.

    FSDP2 recomputes by its own wrapper; with the model's own, every layer would be gathered once more.
    """
    if optimiser.sharding == "none":
        return {"gradient_checkpointing": gradient_checkpointing}
    if optimiser.sharding == "fsdp2":
        config = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
            "activation_checkpointing": gradient_checkpointing,
        }
        return {"gradient_checkpointing": False, "fsdp": True, "fsdp_config": config}
    return {"gradient_checkpointing": gradient_checkpointing, "deepspeed": deepspeed_config(optimiser.sharding)}


def one_dtype(model: Any, optimiser: OptimiserSettings) -> None:
    """For ZeRO-3, put the adapter's weights into the base's dtype: it gathers both into one buffer (trl issue 6089)."""
    if optimiser.sharding == "zero3":
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.to(base_dtype(optimiser))


def deepspeed_config(sharding: str) -> dict[str, Any]:
    """DeepSpeed's configuration for "zero2" or "zero3"; "auto" is filled in from the trainer's arguments."""
    stage = int(sharding.removeprefix("zero"))
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def whole_adapter(trainer: Any, optimiser: OptimiserSettings) -> dict[str, torch.Tensor] | None:
    """The trained weights of a sharded model, put together on the CPU; all workers must call it. None if not sharded.

    With FSDP2 only the adapter's weights are gathered: the base need not fit anywhere as a whole.
    """
    if optimiser.sharding == "none":
        return None
    if optimiser.sharding != "fsdp2":
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    trained = ((name, weight) for name, weight in trainer.model.named_parameters() if weight.requires_grad)
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().cpu()
        for name, weight in trained
    }


def vllm_arguments(settings: VllmSettings) -> dict[str, Any]:
    """Of `trl.GRPOConfig`: vLLM inside the workers, or on a server of its own."""
    return {
        "use_vllm": True,
        "vllm_mode": settings.mode,
        "vllm_server_base_url": settings.server_url,
        "vllm_gpu_memory_utilization": settings.memory_share,
        "vllm_tensor_parallel_size": settings.tensor_parallel,
        "vllm_enable_sleep_mode": settings.sleep,
        "vllm_max_model_length": settings.max_length,
    }


def most_of_all(count: int) -> int:
    """The largest `count` of all workers; all must ask."""
    return max(gather_object([count]))
