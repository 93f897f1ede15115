"""What calls will cost before any is made: expected and worst case, from the configuration's own prices.

In: how many calls of what size. Out: an `Estimate`. Expected tokens are the mean of what this model took so far, if the
ledger has answers of it; else four bytes a prompt token and half of `max_tokens` for the answer [O]. The worst case is
the one a budget reserves: every byte a token, every answer `max_tokens` long; a call that has to be repeated after it
was billed comes on top. What was paid already is not asked again: who knows how much that is says so (`paid`).
"""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.clients.search import SearchConfig, search_cost
from agentflow.clients.teacher import TOKENS_PER_MESSAGE, TeacherConfig, teacher_cost
from agentflow.ledger.meters import MeanTokens

_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Estimate:
    """The calls of one stage to one service."""

    stage: str
    service: str
    calls: int
    # Expected, still to be made.
    most_calls: int
    tokens: int
    # Expected, prompt and answer; 0 for searches.
    credits: float
    usd: float | None
    most_usd: float | None
    # None: the configuration names no prices.
    basis: str
    # Where the expectation comes from.
    paid: int = 0
    # Calls of the stage that were made before: in its committed batches, or stored in the ledger. No part of `calls`.

    def line(self) -> str:
        """One line for people."""
        calls, most = self.calls + self.paid, self.most_calls + self.paid
        number = f"{calls:,} calls" if calls == most else f"{calls:,} (at most {most:,}) calls"
        paid = f", of which {self.paid:,} already paid" if self.paid else ""
        size = f"{self.credits:,.0f} credits" if self.service == "search" else f"{self.tokens:,} tokens"
        if self.usd is None or self.most_usd is None:
            money = f"price unknown: set {self.service}.usd_per_million_in and usd_per_million_out"
        else:
            money = f"expected {self.usd:,.4f} USD, worst case {self.most_usd:,.4f} USD"
        return f"{self.stage:15} {self.service:8} {number}{paid}, {size}, {money}  ({self.basis})"


def estimate_teacher(
    stage: str,
    config: TeacherConfig,
    *,
    calls: int,
    most_calls: int,
    prompt_bytes: int,
    seen: MeanTokens | None,
    paid: int = 0,
) -> Estimate:
    """Calls of about `prompt_bytes` each (UTF-8, all messages together). `seen`: what this model took so far; `paid`:
    calls that come on top and were made before.
    """
    if seen is not None and seen.answers:
        tokens_in, tokens_out = seen.tokens_in, seen.tokens_out
        basis = f"mean of {seen.answers:,} earlier answers: {tokens_in:,.0f} + {tokens_out:,.0f} tokens"
    else:
        tokens_in, tokens_out = prompt_bytes / _BYTES_PER_TOKEN, config.max_tokens / 2
        basis = f"no earlier answers: {tokens_in:,.0f} + {tokens_out:,.0f} tokens assumed"
    expected = teacher_cost(config, round(calls * tokens_in), round(calls * tokens_out))
    worst = teacher_cost(config, prompt_bytes + 2 * TOKENS_PER_MESSAGE, config.max_tokens)
    priced = config.base_url is None or None not in (config.usd_per_million_in, config.usd_per_million_out)
    usd, most_usd = (expected.usd, most_calls * worst.usd) if priced else (None, None)
    tokens = expected.tokens_in + expected.tokens_out
    return Estimate(stage, "teacher", calls, most_calls, tokens, 0.0, usd, most_usd, basis, paid)


def estimate_search(stage: str, config: SearchConfig, *, calls: int, most_calls: int, basis: str) -> Estimate:
    """Searches cost the same whatever is found."""
    one = search_cost(config)
    return Estimate(
        stage, "search", calls, most_calls, 0, calls * one.credits, calls * one.usd, most_calls * one.usd, basis
    )
