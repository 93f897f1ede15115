"""The adapter folded into the policy's weights while rollouts are sampled, and taken out again exactly.

In: the policy. Out: the same policy, decoding faster, for as long as the context lasts; afterwards every weight has the
bits it had before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from agentflow import clock


def folded_if_sound(model: Any) -> AbstractContextManager[None]:
    """`folded`, but for weights in 4 bits: every fold would quantise them anew."""
    return nullcontext() if getattr(model, "is_loaded_in_4bit", False) else folded(model)


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """Fold in, and out again.

    Weights of 16 bits are copied aside meanwhile: taking a rounded sum apart again would leave some a last bit off, at
    every step. (PEFT does that; float32 weights come back to 1e-7.)
    """
    with clock.here().during("sync"):
        aside = [(weight, weight.detach().clone()) for weight in _short_weights(model)]
        model.merge_adapter()
    try:
        yield
    finally:
        with clock.here().during("sync"), torch.no_grad():
            model.unmerge_adapter()
            for weight, original in aside:
                weight.copy_(original)


def _short_weights(model: Any) -> Iterator[torch.Tensor]:
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            weight: Any = layer.get_base_layer().weight
            if weight.dtype in (torch.bfloat16, torch.float16):
                yield weight
