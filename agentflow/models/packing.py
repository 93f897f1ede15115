"""Several texts with common beginnings as one sequence of tokens, so that a beginning is computed once.

    arms     q a b c d      q a X b c d
    packed   q a b c | X b c                a branch (X b c) sees the trunk up to where it leaves it (q a), and itself

What comes out is laid out for one forward pass with an attention mask of its own; last tokens, which predict nothing,
are not fed. The tokens, positions and what each of them sees are those of the texts one by one (ours; the idea is that
of tree attention, e.g. SpecInfer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Text(Protocol):
    """Tokens, and those of them whose loss is wanted (trials.Arm)."""

    @property
    def input_ids(self) -> list[int]: ...

    @property
    def common(self) -> list[int]: ...


@dataclass(frozen=True)
class Packed:
    """Texts as one sequence."""

    ids: list[int]
    # [tokens]
    positions: list[int]
    # Position of each token in its own text [tokens].
    trunk: list[int]
    # How many tokens of the trunk each token may see; a token of the trunk sees itself and what is before it [tokens].
    branch: list[int]
    # 0 for the trunk, then 1, 2, ... [tokens].
    reads: list[list[tuple[int, int]]]
    # For each text and wanted token: (place in the sequence that predicts it, token id) [texts, wanted].


def pack(texts: Sequence[Text]) -> Packed:
    """The first text is the trunk; others leave it where they differ, and need nothing of their own if they do not."""
    fed = [text.input_ids[: text.common[-1]] for text in texts]
    whole = texts[0].input_ids
    # Texts with the trunk's own tokens only lengthen it.
    trunk = whole[: max(len(ids) for ids, text in zip(fed, texts, strict=True) if text.input_ids == whole)]
    ids, positions, seen, branch = (
        list(trunk),
        list(range(len(trunk))),
        list(range(1, len(trunk) + 1)),
        [0] * len(trunk),
    )
    reads = []
    for number, (text, own) in enumerate(zip(texts, fed, strict=True), start=1):
        assert text.common[0] > 0, "the first token of a text is predicted by nothing"
        leaves = _common(trunk, own)
        offset = len(ids)
        ids += own[leaves:]
        positions += range(leaves, len(own))
        seen += [leaves] * (len(own) - leaves)
        branch += [number] * (len(own) - leaves)
        reads.append([(p - 1 if p <= leaves else offset + p - 1 - leaves, text.input_ids[p]) for p in text.common])
    return Packed(ids, positions, seen, branch, reads)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
