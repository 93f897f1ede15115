"""One row through all stages: where it came from, what became of it, and who rejected it and why.

In: a store and a row id. Out: a record for every row and reject that belongs to it. A row belongs to the id if it is
that row, the question it was made from, or made from it:

    id "toy-1#0" finds the question "toy-1", the traces "toy-1#0" (not its sibling "toy-1#1"), rollouts of "toy-1"
    id "toy-1"   finds the question and everything made from it
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.errors import CorruptArtifact
from agentflow.training.jobs import ROLLOUTS, SUMMARY

_log = logging.getLogger(__name__)
SAMPLE_MARK = "#"
# Stands between a question's id and a sample's index.


@dataclass(frozen=True)
class Finding:
    """A row or reject that belongs to the id asked for."""

    stage: str
    fingerprint: str
    kind: Literal["row", "reject"]
    row: dict[str, Any]


def explain(store: Store, row_id: str) -> list[Finding]:
    """Everything the store knows about `row_id`: stages in DAG order, newest artifact first, rows before rejects.

    Damaged artifacts are logged and left out. An empty list means that no stage has seen the id.
    """
    row_id = row_id.encode("utf-8", "backslashreplace").decode()  # the form in which rejected keys are kept
    findings: list[Finding] = []
    for stage in store.stages():
        for artifact in store.list(stage):
            try:
                findings += _in_artifact(artifact, row_id) if artifact.is_table else _in_training(artifact, row_id)
            except CorruptArtifact as error:
                _log.warning("left out: %s", error)
    return findings


def _in_artifact(artifact: Artifact, row_id: str) -> list[Finding]:
    rows = [
        Finding(artifact.stage, artifact.fingerprint, "row", row)
        for row in _matching(artifact.table(), ("id", "question_id"), row_id)
    ]
    rejects = artifact.rejects_table()
    for row in _matching(rejects, ("key",), row_id) if rejects is not None else []:
        parsed = {**row, "row": json.loads(row["row"])}
        rows.append(Finding(artifact.stage, artifact.fingerprint, "reject", parsed))
    return rows


def _in_training(artifact: Artifact, row_id: str) -> list[Finding]:
    """Rollouts about the question, and why a training left the row out."""
    names = {entry.path for entry in artifact.manifest.files}
    rows: list[Finding] = []
    if any(name.startswith(f"{ROLLOUTS}/") for name in names):
        found = _matching(artifact.inner_table(ROLLOUTS), ("id", "question_id"), row_id)
        rows += [Finding(artifact.stage, artifact.fingerprint, "row", row) for row in found]
    if SUMMARY in names:
        rejects = json.loads(artifact.file(SUMMARY).read_text()).get("rejects") or []
        keys = pa.table({"key": [str(reject["key"]) for reject in rejects], "at": range(len(rejects))})
        for one in _matching(keys, ("key",), row_id):
            reject = {"status": "dropped", **rejects[one["at"]], "row": {}}
            rows.append(Finding(artifact.stage, artifact.fingerprint, "reject", reject))
    return rows


def _matching(table: pa.Table, columns: tuple[str, ...], row_id: str) -> list[dict[str, Any]]:
    """Rows one of whose `columns` is the id, its question, or (if the id is a question) one of its samples."""
    question, _, sample = row_id.partition(SAMPLE_MARK)
    found: list[dict[str, Any]] = []
    for batch in table.to_batches(max_chunksize=65_536):
        mask: Any = pa.scalar(False)
        for name in columns:
            if name not in table.schema.names:
                continue
            values = batch.column(name)
            mask = pc.or_kleene(mask, pc.is_in(values, value_set=pa.array([row_id, question])))
            if not sample:
                mask = pc.or_kleene(mask, pc.starts_with(values, f"{question}{SAMPLE_MARK}"))
        found += batch.filter(mask).to_pylist()
    # A sibling sample shares the question but is another row.
    own = columns[0]
    return [row for row in found if not sample or SAMPLE_MARK not in row[own] or row[own] == row_id]
