"""THE mask: from rendered spans to tokens, labels and roles. SFT, the loss filter and GRPO all use it.

Rule for borders: every span is tokenised on its own, so a token never straddles two roles. That is also what happens at
run time, when the model's own tokens end at a call and the result's tokens are injected after them, so training and
generation see the same tokens. Model-written spans (think, call, answer and the final end token) are trained on exactly
once; prompt and result tokens never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentflow.records import Span, SpanRole

IGNORED = -100
# Label of a token without loss; the value every library in use agrees on.

TRAINED_ROLES: frozenset[SpanRole] = frozenset({"think", "call", "answer"})

Tokenize = Callable[[str], list[int]]
# Text to token ids, adding nothing (no BOS, no EOS).


@dataclass(frozen=True)
class Encoded:
    """A row as tokens."""

    input_ids: list[int]
    # [tokens]
    labels: list[int]
    # input id where the token is trained on, IGNORED elsewhere [tokens]
    roles: list[SpanRole]
    # role of the span each token came from [tokens]

    @property
    def trained(self) -> int:
        """Number of tokens with loss."""
        return sum(label != IGNORED for label in self.labels)


def encode(
    spans: Sequence[Span], tokenize: Tokenize, *, start_ids: Sequence[int] = (), end_id: int | None = None
) -> Encoded:
    """Tokens, labels and roles of `spans` in order.

    `start_ids` (see `models.loading.start_ids`) come first, as tokens of the prompt; `end_id` is appended as a trained
    token of the last span's role.
    """
    input_ids: list[int] = [*start_ids]
    roles: list[SpanRole] = ["prompt"] * len(input_ids)
    for span in spans:
        ids = tokenize(span.text)
        input_ids += ids
        roles += [span.role] * len(ids)
    if end_id is not None:
        input_ids.append(end_id)
        roles.append(spans[-1].role if spans else "answer")
    labels = [token if role in TRAINED_ROLES else IGNORED for token, role in zip(input_ids, roles, strict=True)]
    return Encoded(input_ids, labels, roles)
