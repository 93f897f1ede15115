"""Attention within the borders of joined rows: what the rows give apart, and nothing without borders."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from agentflow.models.borders import attend

LENGTHS = (5, 1, 7)
BORDERS = [0, 5, 6, 13]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def parts(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(LENGTHS), 16) for heads in (4, 2, 2)]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def apart(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention written out, row by row, key heads repeated."""
    rows = []
    for start, end in pairwise(BORDERS):
        q, k, v = (part[:, :, start:end].float() for part in (query, key, value))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = q @ k.mT * 16**-0.5
        future = torch.ones(scores.shape[-2:], device=scores.device).triu(1).bool()
        rows.append((scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(1, 2))
    return torch.cat(rows, 1)


@pytest.mark.parametrize("device", DEVICES)
def test_joined_rows_get_the_values_and_gradients_of_the_rows_apart(device: str) -> None:
    query, key, value = parts(device)
    borders = torch.tensor(BORDERS, dtype=torch.int32, device=device)
    found, _ = attend(torch.nn.Module(), query, key, value, None, cu_seq_lens_q=borders, max_length_q=max(LENGTHS))
    expected = apart(query, key, value)
    near = {"atol": 1e-5, "rtol": 1e-5} if device == "cpu" else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(found.float(), expected, **near)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(device)
    ours = torch.autograd.grad((found.float() * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    torch.testing.assert_close(ours, theirs, **near)


def test_without_borders_or_with_what_it_cannot_do_it_refuses() -> None:
    query, key, value = parts("cpu")
    borders = {"cu_seq_lens_q": torch.tensor(BORDERS), "max_length_q": 7}
    with pytest.raises(ValueError, match="joined into one sequence with their borders"):
        attend(torch.nn.Module(), query, key, value, None)
    with pytest.raises(ValueError, match="knows no dropout attention; set optimiser.attention"):
        attend(torch.nn.Module(), query, key, value, None, dropout=0.1, **borders)
    with pytest.raises(ValueError, match="knows no softcap, s_aux attention"):
        attend(torch.nn.Module(), query, key, value, None, softcap=30.0, s_aux=torch.zeros(4), **borders)
    with pytest.raises(ValueError, match="rows are longer than 3"):
        attend(torch.nn.Module(), query, key, value, None, sliding_window=3, **borders)
