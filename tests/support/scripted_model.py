"""A causal language model whose words are scripted, for tests of the engine that generates with it.

It answers the engine's forward call as a transformers model does and keeps what it has read where a transformers model
keeps it: in the engine's key-value cache (the token ids stand in the keys of one cache layer). So it sees exactly what
the engine fed, after every padding, hole, and removal of finished rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig

JUNK = "?"
# What it "writes" where nobody may listen: while a row waits for its tool, or reads a result. Must appear in no
# rollout.


class ScriptedModel:
    """`scripts`: prompt to the pieces that are written in turn; between two pieces a result is read up to `closer`.

    After the last piece comes the end token, or, with `free`, what the model `free` says (its logits).
    """

    def __init__(
        self, tokenizer: Any, scripts: Mapping[str, Sequence[str]], free: Any = None, closer: str = "]"
    ) -> None:
        self.tokenizer, self.free, self.training = tokenizer, free, False
        self._closer = closer
        self.device = torch.device("cpu")
        self._layer = free.config.num_hidden_layers if free else 0
        settings = free.config.to_dict() if free else {}
        self.config = LlamaConfig(**{**settings, "num_hidden_layers": self._layer + 1})
        self._scripts = {
            tuple(self._ids(prompt)): [self._ids(piece) for piece in pieces] for prompt, pieces in scripts.items()
        }
        self._junk = self._ids(JUNK)[0]
        self.steps: list[int] = []
        # Rows of every forward pass.

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def eval(self) -> ScriptedModel:
        return self

    def train(self, mode: bool = True) -> ScriptedModel:
        return self

    def __call__(self, input_ids: Any, attention_mask: Any, past_key_values: Any, **options: Any) -> Any:
        self.steps.append(len(input_ids))
        keys = input_ids[:, None, :, None].double()
        read, _ = past_key_values.update(keys, keys, self._layer)
        read = read[:, 0, :, 0].long()
        assert read.shape == attention_mask.shape, "the mask must cover everything that was fed"
        if self.free:
            options |= {"past_key_values": past_key_values, "attention_mask": attention_mask}
            logits = self.free(input_ids=input_ids, **options).logits
        else:
            logits = torch.zeros(len(input_ids), 1, len(self.tokenizer))
        for r in range(len(input_ids)):
            wanted = self._next(
                [token for token, seen in zip(read[r].tolist(), attention_mask[r], strict=True) if seen]
            )
            if wanted is not None:
                logits[r, -1] = -1e4
                logits[r, -1, wanted] = 1e4
        return SimpleNamespace(logits=logits[:, -1:])

    def _next(self, seen: list[int]) -> int | None:
        (prompt,) = [prompt for prompt in self._scripts if tuple(seen[: len(prompt)]) == prompt]
        pieces, written = self._scripts[prompt], seen[len(prompt) :]
        for i, piece in enumerate(pieces):
            if len(written) < len(piece):
                assert piece[: len(written)] == written, "the engine must feed what was written"
                return piece[len(written)]
            assert written[: len(piece)] == piece, "the engine must feed what was written"
            written = written[len(piece) :]
            if i + 1 == len(pieces):
                return None if self.free else self.tokenizer.eos_token_id
            read = [j for j in range(1, len(written) + 1) if self._closer in self.tokenizer.decode(written[:j])]
            if not read:
                return self._junk
            written = written[read[0] :]
        return None
