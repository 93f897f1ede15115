"""`agentflow explain-row`: everything the store and the ledger know about one row, as lines of safe text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentflow.artifacts.explain import Finding, explain
from agentflow.artifacts.store import Store
from agentflow.errors import InputError
from agentflow.ledger import Ledger
from agentflow.report.visible import visible

LIMIT = 2000
# Characters of one field.


def explain_lines(row_id: str, root: Path, ledger_url: str | None) -> Iterator[str]:
    """The row's history in DAG order; raises InputError if no stage has seen it."""
    store = Store.open(root / "artifacts")
    findings = explain(store, row_id)
    if not findings:
        raise InputError(
            f"no artifact below {str(root)!r} knows the row {row_id!r}; `agentflow show` prints ids of a stage's rows"
        )
    url = ledger_url or f"sqlite:///{(root / 'ledger.db').absolute()}"
    with Ledger.open(url, run_id="explain", mode="replay") as ledger:
        for finding in findings:
            yield from _finding(finding, store, ledger)


def _finding(finding: Finding, store: Store, ledger: Ledger) -> Iterator[str]:
    manifest = store.resolve(f"{finding.stage}/{finding.fingerprint}").manifest
    made = f"made by {manifest.code_version} at {manifest.created_at}"
    yield f"== {finding.stage}/{finding.fingerprint}  {finding.kind}  {made}"
    for name, value in finding.row.items():
        if name == "segments":
            yield from _segments(value, ledger)
        elif value not in (None, "", []):
            yield f"   {name}: {visible(value if isinstance(value, str) else json.dumps(value), LIMIT)}"
            if name == "ledger_key":
                yield from _call(value, ledger)


def _segments(segments: list[dict[str, Any]], ledger: Ledger) -> Iterator[str]:
    yield "   segments:"
    for segment in segments:
        if segment["kind"] == "text":
            yield f"     text   {visible(segment['text'], LIMIT)}"
            continue
        yield f"     call   {segment['tool']} {visible(segment['arguments'], LIMIT)}"
        yield f"     result {visible(segment['result'], LIMIT)}" + (
            f"  (as of {segment['as_of']})" if segment["as_of"] else ""
        )
        if segment["ledger_key"]:
            yield from _call(segment["ledger_key"], ledger)


def _call(key: str, ledger: Ledger) -> Iterator[str]:
    call = ledger.get(key)
    if call is None:
        yield f"     ledger {key[:16]}: not in this ledger"
        return
    attempts = call.get("attempts", [])
    yield (
        f"     ledger {key[:16]}: {call['kind']} {call['provider']} {call['model']}, edition {call['edition']}, "
        f"fetched {call['fetched_at']}, response sha256 {call['response_sha256'][:16]}, {len(attempts)} attempts"
    )
