"""From a model source to a folder of safetensors and a tokenizer, and from that folder to a model.

`convert` writes the base model artifact; `load_model` / `load_tokenizer` read it and, if asked, put a LoRA adapter on
it. Never executes code that comes with a model: `trust_remote_code` is False and no configuration can change that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_utils import PreTrainedModel

from agentflow.errors import ConfigError, InputError
from agentflow.models.sources import HubModel, LocalModel, PackagedGguf, TinyModel

POINTER = "pointer.json"
# A base model artifact that only names a folder or a hub commit, so that large weights are not copied.
HOLDING = "holding.json"
# Beside it, how the weights are to be held: {"four_bit": true}. Absent: as they are.

END_OF_TURN = "<|im_end|>"
Device = Literal["cpu", "cuda"]


def convert(
    source: PackagedGguf | LocalModel | HubModel | TinyModel, folder: Path, *, four_bit: bool = False
) -> dict[str, Any]:
    """Write `source` into `folder`; returns facts for the manifest (parameters, vocabulary).

    Hub and path models are only pointed at. four_bit: `load_model` will hold the weights in NF4. Raises InputError if
    the source cannot be read.
    """
    if four_bit:
        (folder / HOLDING).write_text(json.dumps({"four_bit": True}))
    if isinstance(source, HubModel):
        source.extra_identity()  # refuses a model without a commit
        (folder / POINTER).write_text(json.dumps({"id": source.id, "revision": source.revision}))
        return {"pointer": source.id}
    if isinstance(source, LocalModel):
        (folder / POINTER).write_text(json.dumps({"id": str(source.path.resolve()), "revision": None}))
        return {"pointer": source.path.name}
    model, tokenizer = _from_gguf(source) if isinstance(source, PackagedGguf) else _tiny(source)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}


def _from_gguf(source: PackagedGguf) -> tuple[PreTrainedModel, Any]:
    path = source.location()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # The loaded model keeps a GGUF quantisation mark and refuses save_pretrained: carry the weights into a plain one.
    settings = {
        k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict())
    return plain, tokenizer


def _tiny(source: TinyModel) -> tuple[PreTrainedModel, Any]:
    tokenizer = _tiny_tokenizer(source.vocab)
    torch.manual_seed(source.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=source.hidden,
        intermediate_size=2 * source.hidden,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        num_key_value_heads=max(1, source.heads // 2),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def _tiny_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from agentflow.rendering import PromptConfig, prompt_text
    from agentflow.sources import arithmetic

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>", "<|im_start|>", END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = arithmetic.generate(seed=0, n=200, templates=arithmetic.TRAINED)
    texts = [f"{prompt_text(p.question, PromptConfig())}<think>{p.rationale}</think><answer>" for p in problems]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token=END_OF_TURN, pad_token="<|endoftext|>"
    )


def resolve(folder: Path) -> tuple[str, str | None]:
    """Name (folder or hub id) and revision that transformers should load for a base model artifact."""
    pointer = folder / POINTER
    if not pointer.is_file():
        return str(folder), None
    target = json.loads(pointer.read_text())
    return target["id"], target["revision"]


def held_in_four_bits(folder: Path) -> bool:
    """Whether a base model artifact is to be held in NF4."""
    holding = folder / HOLDING
    return holding.is_file() and bool(json.loads(holding.read_text())["four_bit"])


def nf4(dtype: torch.dtype, *, on_gpu: bool, storage: torch.dtype | None = None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights in NF4 with double quantisation that compute in `dtype`.

    storage: the dtype of the tensors the 4 bits are kept in (bytes, if None).
    """
    kept = {} if storage is None else {"bnb_4bit_quant_storage": storage}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        **kept,
    )
    # bitsandbytes quantises on the GPU it is put on; left alone, every worker of a node would take the first one.
    place = {"device_map": {"": f"cuda:{os.environ.get('LOCAL_RANK', '0')}"}} if on_gpu else {}
    return {"quantization_config": config, **place}


@contextmanager
def no_foreign_code(name: str) -> Iterator[None]:
    """Inside, a model that needs code of its own raises InputError instead of a hint to switch that on."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error) and "custom code" not in str(error):
            raise
        raise InputError(
            f"model {name!r} brings code of its own (trust_remote_code), which is never executed here; use a model of "
            "an architecture that transformers itself knows"
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base model artifact. Raises InputError if it has no end-of-sequence token."""
    name, revision = resolve(folder)
    with no_foreign_code(name):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name!r} has no eos token; generation could never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path,
    *,
    adapter: Path | None = None,
    trainable: bool = False,
    merge: bool = False,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    attention: str | None = None,
    four_bit: bool | None = None,
) -> Any:
    """The model of a base model artifact, optionally with a LoRA adapter.

    trainable: the adapter's weights take gradients. merge: the adapter is folded into the weights, which is faster to
    generate with. dtype None: float32 on a CPU, which has no fast bfloat16, and bfloat16 on a GPU. attention: the
    kernel's name in transformers (None: its own choice). four_bit: NF4 weights, which are never merged into (None: as
    the artifact says). Raises InputError if the adapter does not fit the base, ConfigError if there is no such device.
    """
    check_device(device)
    dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
    name, revision = resolve(folder)
    four_bit = held_in_four_bits(folder) if four_bit is None else four_bit
    quantised = nf4(dtype, on_gpu=dtype != torch.float32 and torch.cuda.is_available()) if four_bit else {}
    with no_foreign_code(name):
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=dtype, attn_implementation=attention, trust_remote_code=False, **quantised
        )
    if trainable:
        never_repacked(model)
    if adapter is not None:
        model = put_adapter(model, adapter, name, trainable=trainable)
        model = model.merge_and_unload() if merge and not four_bit else model
    return model if four_bit else model.to(device)


def never_repacked(model: Any) -> None:
    """Make 4-bit weights on a CPU safe to train through.

    On a CPU with bf16 units, bitsandbytes 0.50 repacks a layer's weights at its first pass in evaluation mode, and they
    stay so: its kernel for them passes no gradient on, and a training that evaluates or samples in between goes on with
    wrong gradients and a mere warning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_device(device: Device) -> None:
    """Raise ConfigError if CUDA is asked for where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"a GPU is asked for, but torch {torch.__version__} finds none in this process; install a CUDA build of "
            "torch on the GPU nodes and see that `nvidia-smi` works there, or leave num_gpus out of the resources"
        )


def put_adapter(model: Any, adapter: Path, name: str, *, trainable: bool) -> Any:
    """`model` (called `name` in messages) with a LoRA adapter on it.

    Raises InputError if the adapter does not fit, is damaged, or lacks a file (PEFT would look for it on the hub).
    """
    lacking = [file for file in ("adapter_config.json", "adapter_model.safetensors") if not (adapter / file).is_file()]
    if lacking:
        raise InputError(f"adapter {str(adapter)!r} lacks {lacking}; give a folder that save_pretrained wrote")
    try:
        loaded = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
        _check_names(loaded, adapter / "adapter_model.safetensors")
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(
            f"adapter {str(adapter)!r} does not fit base model {name!r}: {error}; give the base it was trained on"
        ) from error
    return loaded


def _check_names(loaded: Any, file: Path) -> None:
    """Raise ValueError unless `file` holds exactly the weights of the adapter that `loaded` has by its configuration.

    PEFT only warns of weights that lack, as for a base with more layers, and drops those that have no place.
    """
    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    with safe_open(file, framework="pt") as stored:
        held = set(stored.keys())
    if lacking := sorted(expected - held):
        raise ValueError(f"it lacks {len(lacking)} of {len(expected)} weights, e.g. {lacking[0]}")
    if unknown := sorted(held - expected):
        raise ValueError(f"{len(unknown)} of its {len(held)} weights have no place there, e.g. {unknown[0]}")


def start_ids(tokenizer: Any) -> list[int]:
    """What this model expects before any text: its BOS token where its tokenizer puts one there, else nothing.

    Llama and Gemma were trained with one and predict badly without; our layouts are text, so nobody else adds it.
    """
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def tokenize_with(tokenizer: Any) -> Any:
    """`text -> ids` as `mask.encode` wants it: nothing added, nothing cut."""

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return tokenize
