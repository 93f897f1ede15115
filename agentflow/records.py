"""The nouns of the pipeline. Plain frozen data; a row of an Arrow dataset is the same thing flattened.

A worked example, from question to what a model is trained on (compact syntax):

    Question  "Mia has 48 clips and sells 48/2 more in May. How many in all?"  answer "72"
    Trace     reasoning "In May she sold 48/2 = 24 clips. In all 48+24 = 72."  predicted "72"
    segments  text "In May she sold 48/2 =" | call Calculator(48/2) -> 24 | text " 24 clips. In all 48+24 =" | ...
    rendered  <think>In May she sold 48/2 = [Calculator(48/2) -> 24] 24 clips. ... </think><answer>72</answer>

Removing the call segments gives back `reasoning` byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SegmentKind = Literal["text", "call", "mistake"]
SpanRole = Literal["prompt", "think", "call", "mistake", "result", "answer"]
OutcomeStatus = Literal["ok", "dropped", "quarantined", "failed"]


def canonical_json(value: Any) -> str:
    """`value` as the one JSON text that hashing and keys use: sorted keys, no spaces, UTF-8, no NaN.

    Raises ValueError for NaN or infinity and TypeError for anything that is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Hex sha256 of `text` as UTF-8 (lone surrogates are hashed by their escaped form, so it never raises)."""
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


@dataclass(frozen=True)
class ToolCall:
    """A request to a tool as a model or an insertion strategy wrote it."""

    tool: str
    # The tool's name in its OpenAI function schema, e.g. "Calculator".
    arguments: dict[str, Any]
    # Argument name to JSON value, e.g. {"expression": "48/2"}.

    @property
    def key(self) -> str:
        """Content key: equal calls have equal keys whatever the order of their arguments."""
        return sha256_text(canonical_json([self.tool, self.arguments]))


@dataclass(frozen=True)
class ToolResult:
    """What the model sees after its call. Infrastructure failures are raised (`ToolFailure`), never put here."""

    text: str
    # Already neutralised and capped; safe to stand in a prompt.
    error: str | None = None
    # Reason if the model's own arguments were refused ("division by zero"); `text` then says so.
    ledger_key: str | None = None
    # Key of the paid call behind it, None for local tools.
    as_of: str | None = None
    # ISO date at which a stored external answer was fetched.
    leaks: int = 0
    # Search results that hold the question and its gold answer (tools.leaks).
    blocked: int = 0
    # Search results left out for their address.


@dataclass(frozen=True)
class Segment:
    """One piece of reasoning: text, or a call together with its result.

    A "mistake" is a call that was refused and is shown for what follows it, not to be learnt.
    """

    kind: SegmentKind
    text: str = ""
    # For "text": the teacher's own characters. Empty for calls and mistakes.
    call: ToolCall | None = None
    result: ToolResult | None = None

    def to_row(self) -> dict[str, Any]:
        """As a struct of `schemas.SEGMENT`; arguments are a JSON string (Arrow would invent None keys)."""
        return {
            "kind": self.kind,
            "text": self.text,
            "tool": self.call.tool if self.call else None,
            "arguments": canonical_json(self.call.arguments) if self.call else None,
            "result": self.result.text if self.result else None,
            "result_error": self.result.error if self.result else None,
            "ledger_key": self.result.ledger_key if self.result else None,
            "as_of": self.result.as_of if self.result else None,
            "leaks": self.result.leaks if self.result else None,
            "blocked": self.result.blocked if self.result else None,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Segment:
        if row["kind"] == "text":
            return cls(kind="text", text=row["text"])
        return cls(
            kind=row["kind"],
            call=ToolCall(row["tool"], json.loads(row["arguments"])),
            result=ToolResult(
                row["result"],
                row["result_error"],
                row["ledger_key"],
                row["as_of"],
                leaks=row.get("leaks") or 0,
                blocked=row.get("blocked") or 0,
            ),
        )


@dataclass(frozen=True)
class Span:
    """A piece of rendered text with the role that decides its loss (see `mask`)."""

    role: SpanRole
    text: str


@dataclass(frozen=True)
class Completion:
    """What the parser found in a model's text. Total: any string gives a Completion."""

    think: str | None
    # Content of the only think block, calls and results included; None if there is not exactly one.
    answer: str | None
    # Content of the only answer block, stripped; None if there is not exactly one.
    calls: tuple[ToolCall, ...]
    # Well-formed calls in order of appearance [number of calls].
    well_formed: bool
    # One think block, then one answer block (or, of a turn, its calls), nothing but white space outside.
    unreadable: bool = False
    # A call was begun that cannot be read, or there are several answers (only `rendering.parse_turn` looks for it).


@dataclass(frozen=True)
class Rollout:
    """One sampled completion with its tool turns, token for token as sampled."""

    prompt_ids: list[int]
    completion_ids: list[int]
    # Sampled and injected tokens in order [completion length].
    model_written: list[int]
    # 1 where the policy sampled the token, 0 where a tool result was injected [completion length].
    logprobs: list[float]
    # Log-probability of each token under the sampling policy, 0.0 where injected [completion length].
    text: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    finished: bool = True
    # False when a cap (tokens, turns) ended it.
    failure: str | None = None
    # Typed cause if a tool's infrastructure failed: such a rollout is no sample at all.
    injected: tuple[tuple[int, int], ...] = ()
    # Where in `text` each of `results` stands: first character and the one behind it [number of results]. One for which
    # no room was left is empty or cut.


@dataclass(frozen=True)
class Reject:
    """An input key that did not become an output row, and why."""

    key: str
    status: OutcomeStatus
    # "dropped" (a rule said no), "quarantined" (the row itself is bad) or "failed" (infrastructure).
    reason: str
    # Stable word used in counts, e.g. "wrong_answer", "rate_limited".
    detail: str = ""
    # The value and the rule, for a person.
    row: dict[str, Any] = field(default_factory=dict)
    # The rejected row as it was.


@dataclass(frozen=True)
class Outcomes:
    """What a stage says about every one of its input keys (promise P2)."""

    rows: Sequence[dict[str, Any]]
    # Output rows, columns as declared in `schemas` for the stage.
    rejects: list[Reject] = field(default_factory=list)
    keys_in: int = 0
    # Number of distinct input keys.
    keys_out: int = 0
    # Number of input keys with at least one output row; rows may be more (k samples of one question).
    counts: dict[str, int] = field(default_factory=dict)
    # What the stage counted that no row can show, by word. Kept with a batch and summed over batches.
