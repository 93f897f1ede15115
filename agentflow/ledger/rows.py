"""Rows of the ledger's tables made and read: an answer with its hash, an attempt with its outcome.

Holds no connection; `books.py` writes them.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from agentflow.errors import MalformedAnswer
from agentflow.ledger.books import Row
from agentflow.ledger.calls import Answer, Cost, PaidCall, Refusal
from agentflow.records import canonical_json, sha256_text

_ERROR_CHARACTERS = 500


def verified(row: Row | None) -> dict[str, Any] | None:
    """The response in a row of `calls`, None if its bytes are not what was stored (promise P8)."""
    text = None if row is None else row["response_json"]
    if row is None or not isinstance(text, str) or sha256_text(text) != row["response_sha256"]:
        return None
    response: dict[str, Any] = json.loads(text)
    return response


def answer_row(call: PaidCall, answer: Answer, at: str) -> tuple[Row | None, Answer | Refusal]:
    """The row of `calls` for an answer, or a Refusal if it is nothing that JSON can keep."""
    try:
        text = json.dumps(answer.response, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        return None, Refusal(MalformedAnswer(f"the answer cannot be kept as JSON: {error}"), answer.cost)
    row = {
        "key": call.key,
        "kind": call.kind,
        "provider": call.provider,
        "model": call.model,
        "request_json": canonical_json(call.request).encode("utf-8", "backslashreplace").decode(),
        "sample_index": call.sample_index,
        "edition": call.edition,
        "response_json": text,
        "response_sha256": sha256_text(text),
        "fetched_at": now(),
    }
    return row, answer


def close_attempt(attempt: Row, status: str, cost: Cost, started: float, *, assumed: bool, error: str) -> None:
    """Put outcome, cost and latency into a row of `attempts`; `started` is the monotonic clock at its sending."""
    attempt.update(
        status=status,
        http_status=None,
        tokens_in=cost.tokens_in,
        tokens_out=cost.tokens_out,
        credits=cost.credits,
        usd_micro=cost.micro_usd,
        assumed=assumed,
        latency_ms=round((time.monotonic() - started) * 1000),
        error=error[:_ERROR_CHARACTERS].replace("\x00", "").encode("utf-8", "backslashreplace").decode(),
    )


def now() -> str:
    """This instant, ISO 8601 in UTC: for people, never compared."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
