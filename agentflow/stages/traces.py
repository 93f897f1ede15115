"""traces: QUESTIONS -> TRACES.

A teacher reasons about every training question; wrong answers are rejected (METHODS A.2).

Only rows of split "train" come in. With `origin="recorded"` the data set's own solution is the trace and nothing is
asked.

    question "Mia has 48 clips ..."
    ->  reasoning "In May she sold 48/2 = 24 clips. ...", response "Answer: 72", predicted "72"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow.artifacts.tables import split_bad_rows
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.config import Frozen, Where
from agentflow.errors import ServiceFailure
from agentflow.metrics.answers import is_correct, read_answer
from agentflow.records import Outcomes, Reject
from agentflow.schemas import TRACES
from agentflow.scrubbing import OFF, ScrubConfig, scrub_traces
from agentflow.syntax import holds_markup
from agentflow.waiting import all_settled

SYSTEM = (
    "Reason step by step. Write every calculation as an equation, such as 48/2 = 24. "
    "End with one line that holds only the final answer: Answer: <answer>"
)

MARKUP = "question or reasoning holds a layout tag or a chat token, which would end a turn or forge the layout"


class TracesConfig(Frozen):
    """How traces are made."""

    origin: Literal["teacher", "recorded"] = "teacher"
    # "recorded": the question's own `rationale`, no call.
    recorded_kinds: tuple[str, ...] = ()
    # With origin "teacher": questions of these kinds (e.g. "gsm8k") take their recorded solution all the same.
    teacher: TeacherConfig = TeacherConfig()
    system: str = SYSTEM
    samples: int = Field(1, ge=1, le=64)
    # Teacher answers per question; every right one becomes a row.
    edition: str = "1"
    # A new edition asks the teacher again; the old answers stay in the ledger.
    scrub: ScrubConfig = ScrubConfig()
    # Personal data removed before the commit. Off by default.
    batch_size: Annotated[int, Where()] = Field(64, ge=1)
    # Questions per Prefect task.
    failure_budget: int = Field(0, ge=0)
    # Questions that may fail without failing the stage.


def recorded_traces(rows: Sequence[dict[str, Any]], scrub: ScrubConfig = OFF) -> Outcomes:
    """The questions' own solutions as traces; a question without one is dropped ("no_rationale")."""
    kept, rejects = [], []
    for row in rows:
        if not row["rationale"].strip():
            rejects.append(Reject(row["id"], "dropped", "no_rationale", "the source records no solution", row))
            continue
        if holds_markup(row["question"] + row["rationale"]):
            rejects.append(Reject(row["id"], "quarantined", "markup", MARKUP, row))
            continue
        kept.append(_trace(row, 0, row["rationale"], f"Answer: {row['answer']}", row["answer"], "recorded", ""))
    return scrub_traces(Outcomes(kept, rejects, len(rows), len(kept)), scrub)


async def trace_batch(rows: Sequence[dict[str, Any]], config: TracesConfig, teacher: TeacherClient) -> Outcomes:
    """Ask the teacher about `rows`.

    Failures of single calls are rejects; what stops the run (budget, key, quota) is raised.
    """
    recorded = recorded_traces([row for row in rows if row["kind"] in config.recorded_kinds])
    asked = [row for row in rows if row["kind"] not in config.recorded_kinds]
    # More than may be in flight, so that slots are used while others check answers or pause before a retry.
    at_once = config.teacher.concurrency + 2 * min(config.teacher.concurrency, 64)
    results = await all_settled((_question(row, config, teacher) for row in asked), at_once)
    kept = [*recorded.rows, *(trace for traces, _ in results for trace in traces)]
    rejects = [*recorded.rejects, *(reject for _, reject in results if reject is not None)]
    return scrub_traces(Outcomes(kept, rejects, len(rows), len(rows) - len(rejects)), config.scrub)


async def _question(
    row: dict[str, Any], config: TracesConfig, teacher: TeacherClient
) -> tuple[list[dict[str, Any]], Reject | None]:
    if holds_markup(row["question"]):
        return [], Reject(row["id"], "quarantined", "markup", MARKUP, row)  # before anything is paid for it
    messages = [{"role": "system", "content": config.system}, {"role": "user", "content": row["question"]}]
    label = f"{config.teacher.provider}/{config.teacher.model}"
    traces: list[dict[str, Any]] = []
    unusable: list[tuple[str, str]] = []
    # (reason, detail) of every sample that is no trace.
    keys: list[str] = []
    # Of every sample's paid call.
    for sample in range(config.samples):
        try:
            answer = await teacher.complete(messages, sample_index=sample)
        except ServiceFailure as failure:
            if failure.stops_run:
                raise
            keys.append(failure.ledger_key)
            if not failure.row_fault:
                return [], Reject(row["id"], "failed", failure.kind, str(failure), {**row, "ledger_keys": keys})
            unusable.append((failure.kind, str(failure)))
            continue
        keys.append(answer.ledger_key)
        predicted = read_answer(answer.content, row["answer_type"])
        reasoning = answer.reasoning or ""
        if not reasoning.strip():
            unusable.append(("no_reasoning", "no reasoning"))
        elif holds_markup(reasoning):
            unusable.append(("markup", MARKUP))
        elif is_correct(predicted, row["answer"], row["aliases"], row["answer_type"]):
            trace = _trace(row, sample, reasoning, answer.content, predicted or "", label, answer.ledger_key)
            # JSON carries texts that no Arrow file can (a lone surrogate): such a row would stop its whole batch.
            storable, bad = split_bad_rows([trace], TRACES)
            traces += storable
            unusable += [(reject.reason, reject.detail) for reject in bad]
        else:
            unusable.append(("wrong_answer", f"{predicted!r} instead of {row['answer']!r}"))
    return (traces, None) if traces else ([], _without_trace({**row, "ledger_keys": keys}, unusable))


def _without_trace(row: dict[str, Any], unusable: Sequence[tuple[str, str]]) -> Reject:
    """The end of a question none of whose samples is a trace: quarantined if one of them never had a chance."""
    reasons = list(dict.fromkeys(reason for reason, _ in unusable))
    faults = [reason for reason in reasons if reason not in ("wrong_answer", "no_reasoning")]
    detail = "; ".join(said for _, said in unusable)
    if faults:
        return Reject(row["id"], "quarantined", faults[0], detail, row)
    return Reject(row["id"], "dropped", "wrong_answer" if "wrong_answer" in reasons else "no_reasoning", detail, row)


def _trace(
    row: dict[str, Any], sample: int, reasoning: str, response: str, predicted: str, teacher: str, ledger_key: str
) -> dict[str, Any]:
    copied = ("question", "answer", "aliases", "answer_type", "kind", "template")
    return {
        "id": f"{row['id']}#{sample}",
        "question_id": row["id"],
        **{name: row[name] for name in copied},
        "reasoning": reasoning.strip(),
        "response": response,
        "predicted": predicted,
        "teacher": teacher,
        "ledger_key": ledger_key,
    }
