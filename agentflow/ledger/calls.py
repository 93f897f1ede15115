"""The nouns of the ledger: what is asked, what it may cost, what came back.

In: what a client wants to ask (`PaidCall`). Out: what it gets (`Recorded`). Plain frozen data; no database and no
network here. Example:

    PaidCall("teacher", "local/1f2e3d4c", "stand-in-r1", {"messages": [...], "temperature": 0.6}, 0, "1").key
    -> "9b0c..."   the same for equal requests whatever the order of their fields
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from agentflow.errors import ServiceFailure
from agentflow.records import canonical_json, sha256_text

CallKind = Literal["teacher", "search"]
Mode = Literal["record", "replay", "replay_or_fail"]
KINDS: tuple[CallKind, ...] = ("teacher", "search")
MODES: tuple[Mode, ...] = ("record", "replay", "replay_or_fail")


@dataclass(frozen=True)
class PaidCall:
    """One paid or external call, identified by its content alone: never by time, machine or attempt."""

    kind: CallKind
    provider: str
    # "local/<8 hex>" for a stand-in, otherwise scheme and host of the endpoint.
    model: str
    # Endpoint model, or for a search its depth.
    request: dict[str, Any]
    # Everything that is sent, as JSON data.
    sample_index: int
    # Which of k samples of the same request.
    edition: str
    # Regenerating asks the same question in a new edition.
    max_age_s: float | None = None
    # A stored answer older than that is asked for again in mode `record`, and replaced; None: never. No part of `key`.

    @cached_property
    def key(self) -> str:
        """Hex sha256 of the canonical JSON of all fields but `max_age_s`.

        Raises TypeError or ValueError if `request` is no JSON.
        """
        return sha256_text(
            canonical_json(
                {
                    "kind": self.kind,
                    "provider": self.provider,
                    "model": self.model,
                    "request": self.request,
                    "sample_index": self.sample_index,
                    "edition": self.edition,
                }
            )
        )


@dataclass(frozen=True)
class Cost:
    """What a call costs, or at worst may cost."""

    tokens_in: int = 0
    tokens_out: int = 0
    credits: float = 0.0
    usd: float = 0.0

    @property
    def micro_usd(self) -> int:
        """Whole millionths of a dollar, rounded up, so that sums are exact and never too small."""
        # The subtraction keeps 0.000003 (as float a hair above 3 millionths) at 3.
        return max(0, math.ceil(self.usd * 1_000_000 - 1e-6))


@dataclass(frozen=True)
class Answer:
    """A whole answer of the service, which was paid; whether it can be used, its reader says."""

    response: dict[str, Any]
    # The body as JSON data, as it came.
    cost: Cost | None
    # None: the service did not say what it billed; the worst case is counted.
    http_status: int | None = 200


@dataclass(frozen=True)
class Refusal:
    """An attempt that gave nothing to keep; `Ledger.ask` stores the attempt and raises `error`."""

    error: ServiceFailure
    cost: Cost | None = field(default_factory=Cost)
    # None: nobody knows whether it was billed (timeout, dropped in the middle); the worst case is counted.


@dataclass(frozen=True)
class Recorded:
    """An answer that stands durably in the ledger."""

    response: dict[str, Any]
    key: str
    paid: bool
    # True if this very ask made the call, False if the answer was there or another ask made it.
    fetched_at: str
    # ISO 8601 UTC instant at which the service gave it.
