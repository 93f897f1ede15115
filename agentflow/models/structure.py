"""A model's structure without its weights: built on the meta device from a configuration, so that counts are exact."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from agentflow.errors import InputError
from agentflow.models.loading import no_foreign_code
from agentflow.models.shapes import SHAPES, Structure
from agentflow.models.sources import HubModel, LocalModel, ModelSource, PackagedGguf


def config_of(source: ModelSource) -> Any:
    """The transformers configuration of a model source; nothing is downloaded.

    Raises InputError for a folder without config.json, or a hub model that is neither bundled nor in the local cache.
    """
    if isinstance(source, HubModel):
        if source.id in SHAPES:
            return shaped(source.id)
        try:
            return AutoConfig.from_pretrained(source.id, revision=source.revision, local_files_only=True)
        except OSError as error:
            raise InputError(
                f"the shape of {source.id!r} is not known here: it is none of {', '.join(sorted(SHAPES))} and not in "
                "the local cache; fetch it once, or give a folder (base_model.source.kind=path)"
            ) from error
    if isinstance(source, LocalModel):
        source.extra_identity()  # says which file is missing
        with no_foreign_code(source.path.name):
            return AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    if isinstance(source, PackagedGguf):
        path = source.location()
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return LlamaConfig(
        vocab_size=source.vocab,
        hidden_size=source.hidden,
        intermediate_size=2 * source.hidden,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        num_key_value_heads=max(1, source.heads // 2),
        tie_word_embeddings=True,
    )


def shaped(name: str) -> Any:
    """The configuration of a bundled architecture (a key of SHAPES)."""
    return AutoConfig.for_model(**SHAPES[name])


def measure(config: Any, lora: LoraConfig) -> Structure:
    """Count the parameters of a model of this configuration with this adapter.

    Raises InputError if the adapter's targets are none of the model's layers.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    output = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output]
    layers = model.get_decoder().layers
    sizes = [_count(layer) for layer in layers] + [_count(model.get_input_embeddings())]
    parameters, nf4 = _count(model), sum(m.weight.numel() for m in linear)
    try:
        adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)
    except ValueError as error:
        raise InputError(f"lora.targets {sorted(lora.target_modules or [])}: {error}") from error
    trained = [(name, p) for name, p in adapted.named_parameters() if p.requires_grad]
    first = [p.shape[1] for name, p in trained if "lora_A" in name and ".layers.0." in name]
    text = config.get_text_config()
    heads = text.num_attention_heads
    return Structure(
        parameters=parameters,
        trainable=sum(p.numel() for _, p in trained),
        linear=nf4,
        largest_layer=max(sizes),
        hidden=text.hidden_size,
        layers=len(layers),
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate=text.intermediate_size,
        vocab=text.vocab_size,
        adapter_inputs=sum(first),
    )


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
