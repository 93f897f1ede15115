"""Rows to tokens and to the order they are trained on; no torch, so `agentflow show-tokens` shows exactly this.

In: FILTERED rows. Out: `input_ids` and `labels` by our one mask function, rejects with reasons, indices in training
order, the evaluation split. Nothing is ever cut: a row that is too long is a reject.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from random import Random
from typing import Any

from agentflow.mask import Tokenize, encode
from agentflow.records import Segment, Span
from agentflow.rendering import PromptConfig, completion_spans, prompt_head, prompt_turn
from agentflow.toolset import syntax_for
from agentflow.training.config import SupervisedSettings


def row_spans(row: dict[str, Any], prompt: PromptConfig) -> list[Span]:
    """The row as a model is trained on it: head and turn apart, as generation and the loss filter read them."""
    segments = [Segment.from_row(segment) for segment in row["segments"]]
    head, turn = Span("prompt", prompt_head(prompt)), Span("prompt", prompt_turn(row["question"], prompt))
    return [head, turn, *completion_spans(segments, row["answer"], syntax_for(prompt.syntax))]


def encode_rows(
    rows: Sequence[dict[str, Any]],
    prompt: PromptConfig,
    max_length: int,
    tokenize: Tokenize,
    end_id: int,
    start_ids: Sequence[int] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows as {"id", "question_id", "input_ids", "labels"}, and the rejects as {"key", "reason", "detail"}.

    `start_ids` and `end_id` are those of `mask.encode`.
    Reasons: too_long (more than `max_length` tokens), nothing_to_train (the model would write layout tags alone).
    """
    encoded, rejects = [], []
    for row in rows:
        tokens = encode(row_spans(row, prompt), tokenize, start_ids=start_ids, end_id=end_id)
        if len(tokens.input_ids) > max_length:
            detail = f"{len(tokens.input_ids)} tokens, at most {max_length}"
            rejects.append({"key": row["id"], "reason": "too_long", "detail": detail})
        elif tokens.trained == 0 or not _says_anything(row):
            detail = "neither reasoning nor an answer"
            rejects.append({"key": row["id"], "reason": "nothing_to_train", "detail": detail})
        else:
            names = {"id": row["id"], "question_id": row["question_id"]}
            encoded.append({**names, "input_ids": tokens.input_ids, "labels": tokens.labels})
    return encoded, rejects


def _says_anything(row: dict[str, Any]) -> bool:
    return bool(row["answer"].strip()) or any(s["kind"] == "call" or s["text"].strip() for s in row["segments"])


def split_for_evaluation(
    encoded: Sequence[dict[str, Any]], share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and rows to evaluate on, about `share` of the questions.

    Split by a hash of seed and question, so all samples of one question stand on one side, whatever their order.
    """
    held_out = [_hash_share(seed, row["question_id"]) < share for row in encoded]
    train = [row for row, held in zip(encoded, held_out, strict=True) if not held]
    return train, [row for row, held in zip(encoded, held_out, strict=True) if held]


def _hash_share(seed: int, key: str) -> float:
    return int.from_bytes(hashlib.sha256(f"evaluation:{seed}:{key}".encode()).digest()[:7], "big") / 2**56


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Which rows share a sequence of at most `max_length` tokens: best fit, longest first; whole rows only.

    Every row stands in exactly one pack. Raises nothing for a row that is too long: it was rejected before.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [(left, place) for place, left in enumerate(room) if left >= lengths[row]]
        if fitting:
            _, place = min(fitting)
            packs[place].append(row)
            room[place] -= lengths[row]
        else:
            packs.append([row])
            room.append(max_length - lengths[row])
    return packs


def packed(encoded: Sequence[dict[str, Any]], max_length: int) -> list[dict[str, Any]]:
    """Rows joined into sequences, each {"input_ids", "labels", "seq_lengths"}; the lengths are the borders.

    TRL numbers the positions of every row from 0 by them, and attention does not cross them.
    """
    packs = pack([len(row["input_ids"]) for row in encoded], max_length)
    return [
        {
            "input_ids": [token for i in rows for token in encoded[i]["input_ids"]],
            "labels": [label for i in rows for label in encoded[i]["labels"]],
            "seq_lengths": [len(encoded[i]["input_ids"]) for i in rows],
        }
        for rows in packs
    ]


LENGTH_BUCKET = 16
# Tokens. Rows are grouped by length to this accuracy: less padding, while a batch still mixes templates.


def training_order(lengths: Sequence[int], per_step: int, steps: int, seed: int) -> list[int]:
    """Row indices in the order they are trained on [steps * per_step].

    Shuffled anew each epoch, each step's rows of similar length. Ours, since transformers' length grouping sorts a
    small data set as a whole, longest first. It depends on nothing but its arguments, so a run has the same order on
    any number of workers.
    """
    random = Random(seed)
    order: list[int] = []
    while len(order) < steps * per_step:
        rows = list(range(len(lengths)))
        random.shuffle(rows)
        rows.sort(key=lambda i: lengths[i] // LENGTH_BUCKET)
        # The remainder that fills no step is carried by wrapping around, so that no row is left out of an epoch.
        rows += rows[: -len(rows) % per_step]
        batches = [rows[i : i + per_step] for i in range(0, len(rows), per_step)]
        random.shuffle(batches)
        order += [row for batch in batches for row in batch]
    return order[: steps * per_step]


def total_steps(rows: int, settings: SupervisedSettings, workers: int) -> int:
    """Optimiser steps of a run (each on batch_size * accumulation * workers rows; a last partial one counts)."""
    if settings.max_steps is not None:
        return settings.max_steps
    return math.ceil(rows * settings.epochs / rows_per_step(settings, workers))


def rows_per_step(settings: SupervisedSettings, workers: int) -> int:
    """Rows of one optimiser step, over all workers."""
    return settings.optimiser.batch_size * settings.optimiser.accumulation * workers
