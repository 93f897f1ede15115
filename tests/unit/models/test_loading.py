"""Base model artifacts: the same bytes every time, safetensors only, and clear words where something does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from agentflow.config import identity
from agentflow.errors import InputError
from agentflow.models.loading import convert, load_model, load_tokenizer, resolve, tokenize_with
from agentflow.models.sources import HubModel, LocalModel, PackagedGguf, TinyModel


def test_the_tiny_model_is_the_same_every_time_and_holds_no_pickle(tiny_base, tmp_path):
    facts = convert(TinyModel(), tmp_path)
    assert facts["parameters"] == sum(p.numel() for p in load_model(tmp_path).parameters())
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (tiny_base / name).read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}


def test_another_seed_gives_other_weights_and_the_same_tokenizer(tiny_base, tmp_path):
    convert(TinyModel(seed=1), tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()
    mine, other = load_model(tmp_path), load_model(tiny_base)
    assert not torch.equal(mine.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_a_local_model_is_pointed_at_and_not_copied(tiny_base, tmp_path, tiny_tokenizer):
    source = LocalModel(path=tiny_base)
    assert convert(source, tmp_path) == {"pointer": tiny_base.name}
    assert [path.name for path in tmp_path.iterdir()] == ["pointer.json"]
    assert resolve(tmp_path) == (str(tiny_base.resolve()), None)
    assert load_model(tmp_path).config.vocab_size == len(load_tokenizer(tmp_path)) == len(tiny_tokenizer)


def test_a_local_model_counts_by_the_bytes_of_its_files(tiny_base, tmp_path):
    copy = tmp_path / "copy"
    convert(TinyModel(), copy)
    assert identity(LocalModel(path=copy)) == identity(LocalModel(path=tiny_base))
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    assert identity(LocalModel(path=copy)) != identity(LocalModel(path=tiny_base))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json; give a folder made by save_pretrained"):
        identity(LocalModel(path=tmp_path))


def test_a_package_that_is_not_installed_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"package 'no_such_model'.* is not installed; run `make demo`"):
        PackagedGguf(package="no_such_model").location()


@pytest.mark.parametrize("revision", ["main", "v1.0", "a" * 39, "A" * 40])
def test_a_hub_model_needs_a_commit(revision, tmp_path):
    with pytest.raises(ValidationError, match="is not a commit: give its 40 hex digits"):
        HubModel(id="a/b", revision=revision)


def test_a_hub_model_is_only_pointed_at(tmp_path):
    convert(HubModel(id="a/b", revision="0" * 40), tmp_path)
    assert resolve(tmp_path) == ("a/b", "0" * 40)


def test_an_adapter_of_another_model_is_refused(tiny_base, tmp_path):
    from peft import LoraConfig, get_peft_model

    convert(TinyModel(hidden=32), tmp_path / "other")
    get_peft_model(load_model(tmp_path / "other"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(InputError, match="does not fit base model"):
        load_model(tiny_base, adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (1, "it lacks 2 of 4 weights, e.g. .*layers.1.*q_proj"),
        (3, "2 of its 6 weights have no place there, e.g. .*layers.2.*q_proj"),
    ],
)
def test_an_adapter_of_a_model_with_other_layers_is_refused(tiny_base, tmp_path, layers, message):
    from peft import LoraConfig, get_peft_model

    convert(TinyModel(layers=layers), tmp_path / "other")
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(load_model(tmp_path / "other"), lora).save_pretrained(tmp_path / "adapter")
    assert load_model(tmp_path / "other", adapter=tmp_path / "adapter")
    with pytest.raises(InputError, match=f"does not fit base model .*{message}.*; give the base it was trained on"):
        load_model(tiny_base, adapter=tmp_path / "adapter")


def test_tokenizing_adds_nothing_and_digits_stand_alone(tiny_tokenizer):
    tokenize = tokenize_with(tiny_tokenizer)
    assert tokenize("") == []
    assert tiny_tokenizer.decode(tokenize("48/2 = 24 é日")) == "48/2 = 24 é日"
    assert len(tokenize("123")) == 3
    assert tokenize("<|im_end|>") == [tiny_tokenizer.eos_token_id]
