"""Paid stages: one Prefect task per batch of rows, on Ray, so that the UI shows and retries batches, and the ledger
keeps calls.

A batch is named after its content. Its task finds the committed batch, or computes and commits it; a batch with failed
rows is not committed and its task fails, after all its other calls were made and stored. The stage waits for all
batches, counts, and only then ends: complete (merged into one artifact), or StageIncomplete with a table of what failed
and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from prefect import get_client
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture
from prefect.states import Crashed, State
from prefect_ray.context import remote_options

from agentflow.artifacts.batches import Batch
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.errors import BudgetExceeded, StageIncomplete, StoreError, UserError
from agentflow.progress import Progress
from agentflow.records import Outcomes, canonical_json, sha256_text
from agentflow.report.markdown import safe_code
from tasks.context import RunContext
from tasks.worker_logs import PATIENCE_S, with_last_lines

Rows = Sequence[dict[str, Any]]
Submit = Callable[[str, str, list[dict[str, Any]], int], PrefectFuture[Any]]
# (task run name, batch key, rows, how many of them may fail) -> future of the batch's Prefect task.

TABLE_ROWS = 500
# Failed calls shown in Prefect's UI; all of them are counted.

ACTIONS = {
    "auth": "check the API key of this host",
    "quota": "raise the quota or wait for its renewal, then Retry",
    "budget": "raise the budget, then run again: everything paid is kept",
}


def ray_name(name: str, key: str) -> str:
    """Name of a batch's task in Ray, by which its last lines are found: Ray's account of its death names no process."""
    return f"{name.replace('_', '-')}-batch-{key[:8]}"


def batch_key(rows: Rows) -> str:
    """Content key of a batch: equal ids, equal key, whatever the order."""
    return sha256_text(canonical_json(sorted(row["id"] for row in rows)))[:20]


def split(rows: Rows, size: int) -> list[list[dict[str, Any]]]:
    """`rows` by id, in batches of `size`."""
    ordered = sorted(rows, key=lambda row: row["id"])
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def run_batches(
    identity: Identity, rows: Rows, size: int, store: Store, where: RunContext, submit: Submit, failure_budget: int
) -> Outcomes:
    """All outcomes of a paid stage.

    Raises StageIncomplete if more than `failure_budget` rows failed, or what stopped a batch.
    """
    name, fingerprint = identity.stage, identity.fingerprint
    batches = split(rows, size)
    progress = Progress(where.progress(name), "rows")
    done: list[Batch | None] = [store.find_batch(name, fingerprint, batch_key(batch)) for batch in batches]

    def start(i: int, note: str = "", may_fail: int = 0) -> PrefectFuture[Any]:
        # By default Ray runs a dead worker's task three times more: paid work is only repeated if somebody asks for it.
        with remote_options(max_retries=0):
            return submit(f"{name} {i + 1}/{len(batches)}{note}", batch_key(batches[i]), batches[i], may_fail)

    submitted = {i: start(i) for i, batch in enumerate(done) if batch is None}
    finished = sum(len(batch) for i, batch in enumerate(batches) if done[i] is not None)
    progress.update(finished, len(rows), meter(where))
    states: dict[int, State[Any]] = {}
    patience_s = PATIENCE_S
    for i, future in submitted.items():
        states[i] = _final_state(future, ray_name(name, batch_key(batches[i])), patience_s)
        if states[i].is_crashed():
            patience_s = 0.0  # the last lines of the others have come meanwhile
        done[i] = store.find_batch(name, fingerprint, batch_key(batches[i]))
        finished += len(batches[i])
        progress.update(finished, len(rows), meter(where))
    missing = [i for i, batch in enumerate(done) if batch is None]
    if missing:
        errors = [_error_of(states[i]) for i in missing]
        # Batches may stand there whose failures were accepted by a run that was killed before its end.
        left = failure_budget - sum(map(_failures, done))
        failed = _report_failures(name, missing, batches, errors)
        # The failure budget is one of rows: what ended a whole batch (a key, a quota, a dead worker) is not within it.
        if sum(failed.values()) > left or not all(isinstance(error, StageIncomplete) for error in errors):
            raise _ending(name, len(batches), errors, failed)
        for i in missing:  # within the budget: commit them with their failures; only those calls are made once more
            future = start(i, " (accepting failures)", left)
            state = _final_state(future, ray_name(name, batch_key(batches[i])), PATIENCE_S)
            done[i] = store.find_batch(name, fingerprint, batch_key(batches[i]))
            if done[i] is None:  # more rows failed than before, or something else did
                errors = [_error_of(state)]
                raise _ending(name, len(batches), errors, _report_failures(name, [i], batches, errors))
            left -= _failures(done[i])
    return merge([batch.outcomes() for batch in done if batch is not None])


def _failures(batch: Batch | None) -> int:
    """Rows that a committed batch counts as failed."""
    return 0 if batch is None else sum(batch.manifest.counts.failed.values())


def _ending(name: str, total: int, errors: list[BaseException], failed: Counter[str]) -> BaseException:
    """What a stage with batches that ended in `errors` raises."""
    for error in errors:
        if isinstance(error, StoreError | UserError | BudgetExceeded):
            return error  # it says what to do; no other call would have gone better
    cause = next(filter(None, (getattr(error, "cause", str(error)) for error in errors)), "")
    message = _message(name, len(errors), total, failed, cause)
    return StageIncomplete(message, stage=name, failed=dict(failed), cause=cause)


def meter(where: RunContext) -> str:
    """What the run has paid until now, for its progress file."""
    with where.access.open_ledger() as ledger:
        return ledger.meter()


def merge(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes of disjoint sets of keys as one."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return Outcomes(
        rows=[row for part in parts for row in part.rows],
        rejects=[reject for part in parts for reject in part.rejects],
        keys_in=sum(part.keys_in for part in parts),
        keys_out=sum(part.keys_out for part in parts),
        counts=dict(counts),
    )


def _report_failures(
    name: str, missing: list[int], batches: list[list[dict[str, Any]]], errors: list[BaseException]
) -> Counter[str]:
    """Count failed rows by reason, and leave in Prefect's UI a table of failed batches (reason, rows, suggested action)
    and one of the calls that failed.
    """
    failed: Counter[str] = Counter()
    table = []
    calls: list[dict[str, Any]] = []
    for i, error in zip(missing, errors, strict=True):
        reasons = error.failed if isinstance(error, StageIncomplete) else {_kind(error): len(batches[i])}
        failed.update(reasons)
        action = ACTIONS.get(next(iter(reasons)), "Retry: only the missing calls are made")
        batch = f"{name} {i + 1}/{len(batches)}"
        cells = {"batch": batch, "reason": ", ".join(reasons), "rows": sum(reasons.values())}
        table.append({**cells, "detail": safe_code(str(error)), "suggested action": action})
        calls += _failed_calls(batch, error)
    key = f"{name.replace('_', '-')}-failed"
    create_table_artifact(key=f"{key}-batches", table=table, description=f"{name}: failed batches")
    if calls:
        shown = calls[:TABLE_ROWS]
        said = f"{name}: {len(calls)} failed calls" + (f", the first {TABLE_ROWS}" if len(shown) < len(calls) else "")
        create_table_artifact(key=f"{key}-calls", table=shown, description=said)
    return failed


def _failed_calls(batch: str, error: BaseException) -> list[dict[str, Any]]:
    """One row of the table for every call a batch still lacks: batch, reason, the call with what it met, its row."""
    missing = error.missing if isinstance(error, StageIncomplete) else []
    return [
        {"batch": batch, "reason": reason, "call": safe_code(line, 400), "row": safe_code(key)}
        for key, reason, detail in missing
        for line in detail.split("\n")
    ]


def _kind(error: BaseException) -> str:
    """The stable word for what ended a whole batch."""
    families = {BudgetExceeded: "budget", StoreError: "store", UserError: "configuration"}
    named = (word for family, word in families.items() if isinstance(error, family))
    return next(named, str(getattr(error, "kind", "crashed")))


def _final_state(future: PrefectFuture[Any], worker: str, wait_s: float) -> State[Any]:
    """Wait for a batch's task. A worker that died told nobody: the server would show its task as running for ever."""
    future.wait()
    if future.state.is_crashed():
        message = with_last_lines(future.state.message or "its worker died", worker, wait_s)
        with get_client(sync_client=True) as client:
            client.set_task_run_state(future.task_run_id, Crashed(message=message), force=True)
    return future.state


def _error_of(state: State[Any]) -> BaseException:
    result = state.result(raise_on_failure=False)
    return result if isinstance(result, BaseException) else RuntimeError(state.message or str(state.type))


def _message(name: str, missing: int, total: int, failed: Counter[str], cause: str) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
    return (
        f"{name}: {missing} of {total} batches failed ({reasons}; for example {cause[:500]}). The others are kept, and "
        "so is every paid answer; run again or press Retry: only the missing calls are made."
    )


def commit(
    store: Store, stage: str, fingerprint: str, key: str, outcomes: Outcomes, schema: pa.Schema, may_fail: int
) -> dict[str, Any]:
    """Commit one batch inside its task; raises StageIncomplete if more than `may_fail` rows failed.

    Returns what Prefect may keep as the task's result.
    """
    failed = sum(reject.status == "failed" for reject in outcomes.rejects)
    batch = store.commit_batch(stage, fingerprint, key, outcomes, schema, allow_failed=failed <= may_fail)
    return {"batch": batch.key, "rows": batch.manifest.n_rows, "digest": batch.manifest.digest}
