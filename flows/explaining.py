"""`agentflow explain-row`: everything the store and the ledger know about one row, as lines of safe text.

For every stage that saw the row: which artifact, made by which versions from which inputs; the fields that an earlier
stage did not have or had otherwise; for every call its query, result, hash of the result and date; for every paid call
its request, the hash of its response, and whether the ledger still holds the answer that the row was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentflow.artifacts.explain import Finding, explain
from agentflow.artifacts.store import Store
from agentflow.errors import InputError
from agentflow.ledger import Ledger
from agentflow.records import canonical_json, sha256_text
from agentflow.report.visible import visible
from agentflow.schemas import SEGMENT

LIMIT = 2000
# Characters of one field.
LEDGER_KEYS = ("ledger_key", "lookups_key", "ledger_keys")
# Columns that name a paid call, or (of a reject) several.
_SEGMENT_FIELDS = frozenset(field.name for field in SEGMENT)


def explain_lines(row_id: str, root: Path, ledger_url: str | None) -> Iterator[str]:
    """The row's history in DAG order; raises InputError if no stage has seen it."""
    store = Store.existing(root / "artifacts")
    findings = explain(store, row_id)
    if not findings:
        raise InputError(
            f"no artifact below {str(root)!r} knows the row {row_id!r}; `agentflow show` prints ids of a stage's rows"
        )
    url = ledger_url or f"sqlite:///{(root / 'ledger.db').absolute()}"
    seen: dict[str, Any] = {}
    with Ledger.open(url, run_id="explain", mode="replay") as ledger:
        for finding in findings:
            yield from _finding(finding, store, ledger, seen)


def _finding(finding: Finding, store: Store, ledger: Ledger, seen: dict[str, Any]) -> Iterator[str]:
    """`seen` holds the fields shown so far and is brought up to date."""
    manifest = store.resolve(f"{finding.stage}/{finding.fingerprint}").manifest
    made = f"made by {manifest.code_version} at {manifest.created_at}"
    yield f"== {finding.stage}/{finding.fingerprint}  {finding.kind}  {made}"
    inputs = ", ".join(f"{name}/{fingerprint}" for name, fingerprint in sorted(manifest.inputs.items()))
    yield f"   versions: stage {manifest.version}, recipe {manifest.recipe}" + (f", from {inputs}" if inputs else "")
    row = finding.row
    if finding.kind == "reject":
        yield from _fields({name: value for name, value in row.items() if name != "row"}, ledger)
        row = row["row"]  # the rejected row itself
    as_before = [name for name, value in row.items() if name in seen and seen[name] == value and name != "id"]
    yield from _fields({name: value for name, value in row.items() if name not in as_before}, ledger)
    if as_before:
        yield f"   as before: {_line(', '.join(as_before))}"
    seen.update(row)


def _fields(fields: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    """One line for each field that says something, with what the ledger knows of the paid calls it names."""
    for name, value in fields.items():
        if value in (None, "", []):
            continue
        if name == "segments" and _are_structs(value, _SEGMENT_FIELDS):
            yield from _segments(value, ledger)
        elif name == "call_scores" and _are_structs(value, frozenset()):
            yield from _call_scores(value)
        else:
            yield f"   {_line(name, 100)}: {_line(value if isinstance(value, str) else json.dumps(value))}"
        if name in LEDGER_KEYS:
            for key in value if isinstance(value, list) else [value]:
                yield from _call(_line(str(key), 100), ledger)


def _are_structs(value: Any, fields: frozenset[str]) -> bool:
    """Whether `value` is what our own stages write: a row rejected by the first one holds whatever its file held."""
    return isinstance(value, list) and all(isinstance(one, dict) and fields <= one.keys() for one in value)


def _line(text: str, limit: int = LIMIT) -> str:
    """Safe text on one line: what a model wrote must not look like a line of ours."""
    return visible(text, limit).replace("\r", "␍").replace("\n", "⏎")


def _segments(segments: list[dict[str, Any]], ledger: Ledger) -> Iterator[str]:
    yield "   segments:"
    for segment in segments:
        if segment["kind"] == "text":
            yield f"     text   {_line(segment['text'])}"
            continue
        yield f"     call   {segment['tool']} {_line(segment['arguments'])}"
        yield f"     result {_line(segment['result'])}"
        as_of = f"  (as of {segment['as_of']})" if segment["as_of"] else ""
        yield f"            sha256 {sha256_text(segment['result'] or '')}{as_of}{_guarded(segment)}"
        if segment["ledger_key"]:
            yield from _call(segment["ledger_key"], ledger, segment["as_of"])


def _guarded(segment: dict[str, Any]) -> str:
    """What the guard of the search found, if it found something."""
    told = {"leaks": "hold question and answer", "blocked": "blocked for their address"}
    found = [f"{segment[name]} results {words}" for name, words in told.items() if segment.get(name)]
    return f"  ({', '.join(found)})" if found else ""


def _call_scores(scores: list[dict[str, Any]]) -> Iterator[str]:
    yield "   call_scores:"
    for score in scores:
        shown = ", ".join(f"{name} {value}" for name, value in score.items() if value is not None and name != "tool")
        yield f"     {score.get('tool')}: {_line(shown)}"


def _call(key: str, ledger: Ledger, as_of: str | None = None) -> Iterator[str]:
    """A paid call: what was asked, and what stands in the ledger as its answer."""
    call = ledger.get(key)
    attempts = [] if call is None else call["attempts"]
    paid = sum(attempt["usd"] for attempt in attempts)
    if call is None or call["response_sha256"] is None:
        tried = (
            f"; {len(attempts)} attempts, {paid:.6f} USD, the last: {_line(attempts[-1]['error'])}" if attempts else ""
        )
        yield f"     ledger {key[:16]}: no answer in this ledger{tried}"
        return
    yield (
        f"     ledger {key[:16]}: {call['kind']} {call['provider']} {_line(call['model'], 100)}, sample "
        f"{call['sample_index']}, edition {call['edition']}, fetched {call['fetched_at']}, {len(attempts)} attempts, "
        f"{paid:.6f} USD"
    )
    yield f"       request  {_line(canonical_json(call['request']))}"
    yield f"       response sha256 {call['response_sha256']}"
    if call.get("corrupt"):
        yield "       the stored answer does not fit its hash: it would be asked for again"
    elif as_of is not None and as_of != call["fetched_at"]:
        yield f"       asked again since: the row was made from the answer of {as_of}"
