"""traces: QUESTIONS -> TRACES.

A teacher reasons about every training question; wrong answers are rejected (METHODS A.2).

Only rows of split "train" come in. With `origin="recorded"` the data set's own solution is the trace and nothing is
asked.

    question "Mia has 48 clips ..."
    ->  reasoning "In May she sold 48/2 = 24 clips. ...", response "Answer: 72", predicted "72"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow.artifacts.tables import split_bad_rows
from agentflow.clients.teacher import TeacherAnswer, TeacherClient, TeacherConfig
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
    min_f1: float = Field(1.0, gt=0, le=1)
    # A text answer is right from this token F1 (SQuAD) with the gold or an alias on; 1.0: exact match [O].
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


async def trace_batch(
    rows: Sequence[dict[str, Any]], config: TracesConfig, teacher: TeacherClient, *, accept_failures: bool = False
) -> Outcomes:
    """Ask the teacher about `rows`.

    Failures of single calls are rejects; what stops the run (budget, key, quota) is raised. A question one of whose
    samples failed has failed as a whole, so that it is asked again, unless `accept_failures`: then nobody will, and its
    other samples, which are paid, are its traces. `counts` says of all samples of questions that did not fail how many
    were right and why the others are no traces.
    """
    recorded = recorded_traces([row for row in rows if row["kind"] in config.recorded_kinds])
    asked = [row for row in rows if row["kind"] not in config.recorded_kinds]
    # More than may be in flight, so that slots are used while others check answers or pause before a retry.
    calls = config.teacher.concurrency + 2 * min(config.teacher.concurrency, 64)
    at_once = -(-calls // config.samples)
    answered = await all_settled((_question(row, config, teacher, accept_failures) for row in asked), at_once)
    # JSON carries texts that no Arrow file can (a lone surrogate): such a row would stop its whole batch. All at once:
    # one by one took, by samples of the stack, over a quarter of the time that sending the requests takes.
    storable, unstorable = split_bad_rows([trace for one in answered for trace in one.traces], TRACES)
    ends = [one.without({reject.key: reject for reject in unstorable}) for one in answered]
    rejects = [*recorded.rejects, *(end for end in ends if end is not None)]
    samples = Counter({"right": len(storable), "unstorable": len(unstorable)})
    for one in answered:
        samples.update(reason for reason, _ in one.unusable)
    counts = {name: count for name, count in sorted(samples.items()) if count}
    outcomes = Outcomes([*recorded.rows, *storable], rejects, len(rows), len(rows) - len(rejects), counts)
    return scrub_traces(outcomes, config.scrub)


@dataclass(slots=True)
class _Answered:
    """What came of one question: its traces, and why its other samples are none."""

    row: dict[str, Any]
    traces: list[dict[str, Any]] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    # (reason, detail) of every sample that is no trace.
    keys: list[str] = field(default_factory=list)
    # Of every sample's paid call.
    reject: Reject | None = None
    # Set where the question ended before its samples were read.

    def without(self, unstorable: Mapping[str, Reject]) -> Reject | None:
        """The question's reject if none of its traces is left without those of `unstorable` (by their ids)."""
        if self.reject is not None:
            return self.reject
        bad = [unstorable[trace["id"]] for trace in self.traces if trace["id"] in unstorable]
        if len(bad) < len(self.traces):
            return None
        unusable = [*self.unusable, *((reject.reason, reject.detail) for reject in bad)]
        return _without_trace({**self.row, "ledger_keys": self.keys}, unusable)


async def _question(
    row: dict[str, Any], config: TracesConfig, teacher: TeacherClient, accept_failures: bool
) -> _Answered:
    found = _Answered(row)
    if holds_markup(row["question"]):  # before anything is paid for it
        found.reject = Reject(row["id"], "quarantined", "markup", MARKUP, row)
        return found
    messages = [{"role": "system", "content": config.system}, {"role": "user", "content": row["question"]}]
    if config.samples == 1:  # without a task of its own, of which there may be thousands
        samples = [await _sample(teacher, messages, 0)]
    else:
        samples = await all_settled(_sample(teacher, messages, sample) for sample in range(config.samples))
    failures: list[ServiceFailure] = []
    for sample, (answer, failure) in enumerate(samples):
        if answer is not None:
            found.keys.append(answer.ledger_key)
            _read(answer, sample, config, found)
        elif failure is not None:
            found.keys.append(failure.ledger_key)
            if failure.row_fault:
                found.unusable.append((failure.kind, str(failure)))
            else:
                failures.append(failure)
    if failures and not (accept_failures and found.traces):
        unanswered = {**row, "ledger_keys": found.keys}
        return _Answered(row, reject=Reject(row["id"], "failed", failures[0].kind, str(failures[0]), unanswered))
    return found


async def _sample(
    teacher: TeacherClient, messages: list[dict[str, str]], sample: int
) -> tuple[TeacherAnswer | None, ServiceFailure | None]:
    try:
        return await teacher.complete(messages, sample_index=sample), None
    except ServiceFailure as failure:
        if failure.stops_run:
            raise
        return None, failure


def _read(answer: TeacherAnswer, sample: int, config: TracesConfig, found: _Answered) -> None:
    """Add one sample to what was `found` of its question: a trace, or the reason why it is none."""
    row = found.row
    predicted = read_answer(answer.content, row["answer_type"])
    reasoning = answer.reasoning or ""
    if not reasoning.strip():
        found.unusable.append(("no_reasoning", "no reasoning"))
    elif holds_markup(reasoning):
        found.unusable.append(("markup", MARKUP))
    elif is_correct(predicted, row["answer"], row["aliases"], row["answer_type"], min_f1=config.min_f1):
        label = f"{config.teacher.provider}/{config.teacher.model}"
        trace = _trace(row, sample, reasoning, answer.content, predicted or "", label, answer.ledger_key)
        found.traces.append(trace)
    else:
        found.unusable.append(("wrong_answer", f"{predicted!r} instead of {row['answer']!r}"))


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
