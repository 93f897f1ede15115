"""The GPU benchmark, on a tiny shape and a CPU: it runs to its end, and says what it could not measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from agentflow.training.sizing import training_flops
from benchmarks import train_gpu
from benchmarks.train_gpu import WAYS, Setting, measured, mfu_row, rows, training_rows

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_without_a_gpu_every_row_says_so_and_counts_as_not_run():
    found = list(rows())
    assert len(found) == 3 * len(WAYS) + 1 and not any(row.ran for row in found)
    assert all("sees no CUDA GPU" in row.reason for row in found)


@no_gpu
def test_a_tiny_shape_goes_through_the_whole_benchmark_on_a_cpu(tmp_path: Path):
    config = AutoConfig.for_model(
        "qwen3", vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    setting = Setting(tokens=256, sequences=2, steps=5, completion=8)
    found = list(measured(tmp_path, config, setting))
    assert [row.ran for row in found] == [True, False, False] * len(WAYS) + [True]
    speeds = [row for row in found if row.unit == "tokens/s"]
    assert all(row.measured > 0 for row in speeds)
    assert "not in the table" in found[1].reason and "GPU only" in found[2].reason
    assert found[-1].unit == "s" and found[-1].measured > 0
    lengths = {len(part) for part in (training_rows(tmp_path / "base", setting, way) for way in WAYS[:2])}
    assert lengths == {48, 4}, "twelve rows to a packed sequence, of twice as many sequences; two full rows to each"


def test_utilisation_is_model_operations_over_the_peak(monkeypatch: pytest.MonkeyPatch):
    from agentflow.models.structure import measure, shaped
    from agentflow.training.config import LoraSettings
    from agentflow.training.placing import lora_config

    structure = measure(shaped("Qwen/Qwen3-1.7B"), lora_config(LoraSettings()))
    monkeypatch.setattr(train_gpu, "gpu_name", lambda: "NVIDIA H200")
    speed = 0.5 * 989e12 / training_flops(structure, 2048)
    row = mfu_row("MFU", speed, structure, 2048, "≥ 40%")
    assert row.ok and row.measured == pytest.approx(0.5) and "H200" in row.reason
    assert not mfu_row("MFU", speed / 2, structure, 2048, "≥ 40%").ok


@pytest.mark.parametrize(
    "name, gpu",
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_a_gpu_is_known_by_the_name_its_driver_gives(monkeypatch: pytest.MonkeyPatch, name: str, gpu: str | None):
    monkeypatch.setattr(train_gpu, "gpu_name", lambda: name)
    found = train_gpu.this_gpu()
    assert (found.name if found else None) == gpu
