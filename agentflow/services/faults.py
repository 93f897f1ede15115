"""Scripts of faults: which of a service's requests fail, and how. In: JSON rules; out: the rule for a request.

A script is a list of rules, looked at in order; the first that fires decides. A rule sees only the requests that the
rules before it let through, so a list reads like a story:

    [{"kind": "status", "status": 429, "retry_after_s": 1, "first": 2},      # the first two: slow down
     {"kind": "drop_half", "every": 10},                                     # every tenth of the rest: cut off
     {"kind": "status", "status": 400, "contains": "Mia has 48 clips"}]      # this question: never

What it does not do: HTTP. `middleware.py` plays the rules.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from agentflow.config import Frozen
from agentflow.errors import InputError

FaultKind = Literal["status", "delay", "drop_before", "drop_half", "drop_after", "empty", "cut_json", "huge"]


class Rule(Frozen):
    """One fault and the requests it hits. Without `first`, `every` and `share` it hits every request it fits."""

    kind: FaultKind
    # status       answer with `status` instead of working
    # delay        wait `delay_s`, then work and answer as usual
    # drop_before  close the connection instead of working
    # drop_half    work, send the first `fraction` of the body, close
    # drop_after   work, then close without a byte: the answer is lost, the work is not
    # empty        work, then a whole answer with an empty body
    # cut_json     work, then a whole answer whose body is the first `fraction` of the JSON
    # huge         work, then the answer followed by white space up to `size_bytes` (still valid JSON)

    path: str = ""
    # Only requests whose path contains this; "" means all.
    contains: str = ""
    # Only requests where a string of the JSON body (or the raw body) contains this; "" means all.
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    # Only this share of all distinct bodies, chosen by hash: the same ones always.
    after: int = Field(default=0, ge=0)
    # Leave the first `after` fitting requests alone; `first` and `every` count from there.
    first: int | None = Field(default=None, ge=1)
    # Only the first n fitting requests.
    every: int | None = Field(default=None, ge=1)
    # Only every n-th fitting request (the n-th, 2n-th, ...).
    per_body: bool = False
    # Count `after`, `first`, `every` apart for each distinct body: `first: 1` then fails every call once.

    delay_s: float = Field(default=0.0, ge=0.0, le=3600.0)
    # Seconds to wait before anything else, with any kind.
    status: int = Field(default=500, ge=200, le=599)
    code: str | None = None
    # Machine-readable code in the JSON error, e.g. "insufficient_quota".
    message: str = "scripted fault"
    html: bool = False
    # An HTML page instead of the service's JSON error (what proxies answer).
    body: Any = None
    # The body itself: a string as it is, anything else as JSON. None: an error of the service's own shape.
    retry_after_s: float | None = Field(default=None, ge=0.0)
    retry_after_as: Literal["seconds", "date"] = "seconds"
    headers: dict[str, str] = Field(default_factory=dict)
    fraction: float = Field(default=0.5, ge=0.0, lt=1.0)
    size_bytes: int = Field(default=50_000_000, ge=1, le=1_000_000_000)

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Rule:
        if self.kind == "delay" and self.delay_s == 0.0:
            raise ValueError("a rule of kind 'delay' needs delay_s > 0 (seconds)")
        if self.kind != "status":
            only_status = {"status", "code", "message", "html", "body", "retry_after_s", "retry_after_as", "headers"}
            if extra := sorted(only_status & self.model_fields_set):
                raise ValueError(f"{', '.join(extra)} only fit kind 'status', not {self.kind!r}")
        if self.html and self.body is not None:
            raise ValueError("give either html or body, not both")
        return self

    def response_headers(self) -> dict[str, str]:
        """Extra headers of a `status` answer; Retry-After as whole seconds, a fraction, or an HTTP date."""
        if self.retry_after_s is None:
            return dict(self.headers)
        if self.retry_after_as == "date":
            value = formatdate(time() + self.retry_after_s, usegmt=True)
        else:
            value = f"{self.retry_after_s:g}" if self.retry_after_s < 1e6 else str(int(self.retry_after_s))
        return {**self.headers, "retry-after": value}


_RULES = TypeAdapter(list[Rule])


def parse_rules(data: bytes | str, source: str) -> list[Rule]:
    """Rules from a JSON list. Raises InputError naming `source`, the rule and the field."""
    try:
        return _RULES.validate_json(data)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'list'}: {item['msg']}" for item in error.errors()[:5]]
        raise InputError(
            f"faults in {source} are not a list of rules ({'; '.join(lines)}); "
            f'a rule is a JSON object such as {{"kind": "status", "status": 429, "first": 2}} '
            f"with the fields {', '.join(Rule.model_fields)}"
        ) from error


def read_rules(path: Path) -> list[Rule]:
    """Rules from a JSON file. Raises InputError if it is missing or wrong."""
    try:
        return parse_rules(path.read_bytes(), repr(str(path)))
    except OSError as error:
        raise InputError(
            f"cannot read faults file {str(path)!r}: {error.strerror}; give an existing JSON file"
        ) from error


class Script:
    """Rules together with how often each has been met. Not thread-safe: it lives in one event loop."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self._met: list[Counter[str]] = [Counter() for _ in rules]
        self.fired = [0] * len(rules)

    def choose(self, path: str, body: bytes) -> int | None:
        """Index of the rule that hits this request, None if none does. Counts the request."""
        if not self.rules:
            return None
        digest = hashlib.sha256(body).hexdigest()
        for index, rule in enumerate(self.rules):
            if not _fits(rule, path, body, digest):
                continue
            counter = self._met[index]
            key = digest if rule.per_body else ""
            counter[key] += 1
            if _is_due(rule, counter[key]):
                self.fired[index] += 1
                return index
        return None


def _fits(rule: Rule, path: str, body: bytes, digest: str) -> bool:
    if rule.path not in path:
        return False
    if rule.share < 1.0 and int(digest[:13], 16) / 16**13 >= rule.share:
        return False
    return not rule.contains or _body_contains(body, rule.contains)


def _is_due(rule: Rule, met: int) -> bool:
    turn = met - rule.after
    if turn < 1 or (rule.first is not None and turn > rule.first):
        return False
    return rule.every is None or turn % rule.every == 0


def _body_contains(body: bytes, needle: str) -> bool:
    """Whether raw body or any string inside the JSON contains `needle` (JSON escapes would hide quotes and accents)."""
    text = body.decode("utf-8", errors="replace")
    if needle in text:
        return True
    try:
        pending = [json.loads(text)]
    except (ValueError, RecursionError):
        return False  # not JSON: the raw look above was all there is to see
    while pending:
        value = pending.pop()
        if isinstance(value, str) and needle in value:
            return True
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False
