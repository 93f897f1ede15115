"""One Arrow schema per stage boundary, in DAG order. A mismatch fails on the first line, naming columns.

`STAGES` is the DAG itself: which stage reads which artifacts and writes which table (None: a checkpoint or files).
Every table has a unique string column `id`: the key of promises P2 and P4.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from agentflow.errors import SchemaMismatch

_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()

# A piece of reasoning (records.Segment). `arguments` is a JSON string: inferred structs fill missing keys with None.
SEGMENT = pa.struct(
    [
        ("kind", _S),  # "text" or "call"
        ("text", _S),  # the teacher's characters ("" for calls)
        ("tool", _S),
        ("arguments", _S),  # canonical JSON object
        ("result", _S),
        ("result_error", _S),  # reason if the arguments were refused
        ("ledger_key", _S),  # the paid call behind the result
        ("as_of", _S),  # ISO date of a stored external answer
    ]
)

QUESTIONS = pa.schema(
    [
        ("id", _S),  # stable: "<source>-<hash of the question>"
        ("question", _S),
        ("answer", _S),  # gold
        ("aliases", pa.list_(_S)),  # other accepted answers
        ("answer_type", _S),  # "number" or "text": which answer check applies
        ("kind", _S),  # "arithmetic", "two_hop", or the dataset's name
        (
            "split",
            _S,
        ),  # "train", "test" (new instances of trained templates), "test_unseen" (templates never trained on)
        ("template", _S),  # generator template, "" for real data
        ("rationale", _S),  # recorded solution, "" where there is none
        ("source", _S),  # where the row came from: "generated", file name or hub id
        ("meta", _S),  # JSON: whatever else the source knows (supporting facts, licence)
    ]
)

TRACES = pa.schema(
    [
        ("id", _S),  # "<question id>#<sample index>"
        ("question_id", _S),
        ("question", _S),
        ("answer", _S),
        ("aliases", pa.list_(_S)),
        ("answer_type", _S),
        ("kind", _S),
        ("template", _S),
        ("reasoning", _S),  # the teacher's thoughts
        ("response", _S),  # the teacher's visible answer
        ("predicted", _S),  # final answer read from `response`
        ("teacher", _S),  # "<provider>/<model>", or "recorded" for a dataset's own solution
        ("ledger_key", _S),  # the paid call, "" for recorded solutions
    ]
)

TOOL_TRACES = pa.schema(
    [
        *TRACES,
        ("segments", pa.list_(SEGMENT)),  # concatenated "text" == reasoning, byte for byte
        ("n_calls", _I),
    ]
)

FILTERED = pa.schema(
    [
        *TOOL_TRACES,
        ("decision", _S),  # "kept", "calls_removed" (loser, stays without its calls) or "no_calls"
        ("loss_plain", _F),  # nats a token over the common tokens without calls; null for no_calls
        ("loss_with", _F),  # the same with calls and results in place
        ("delta", _F),  # loss_plain - loss_with, rounded to 1e-4; > 0 means the calls help
        ("n_common", _I),  # tokens the means run over
        ("n_calls_before", _I),  # calls inserted before the filter
    ]
)

ROLLOUTS = pa.schema(
    [
        ("id", _S),  # "<step>-<group>-<sample>"
        ("step", _I),
        ("question_id", _S),
        ("prompt", _S),
        ("completion", _S),
        ("gold", _S),
        ("answer", _S),  # null where none could be read
        ("n_calls", _I),
        ("rewards", _S),  # JSON object part -> value
        ("reward", _F),  # null for failed rollouts
        ("advantage", _F),
        ("status", _S),  # "ok" or "failed"
        ("failure", _S),
    ]
)

EVALUATIONS = pa.schema(
    [
        ("id", _S),  # question id
        ("model", _S),  # "base", "sft", "cold_start", "grpo"
        ("prompt_style", _S),  # "trained", "tools", "plain"
        ("kind", _S),
        ("split", _S),
        ("template", _S),
        ("question", _S),
        ("gold", _S),
        ("completion", _S),
        ("predicted", _S),
        ("correct", _B),  # null for failed rows: they are in no denominator
        ("well_formed", _B),
        ("n_calls", _I),
        ("n_tokens", _I),
        ("status", _S),  # "ok" or "failed"
        ("failure", _S),
    ]
)

REJECTS = pa.schema(
    [
        ("key", _S),  # the input key
        ("status", _S),  # "dropped", "quarantined" or "failed"
        ("reason", _S),
        ("detail", _S),
        ("row", _S),  # the rejected row as JSON
    ]
)


@dataclass(frozen=True)
class Stage:
    """A node of the DAG: what it reads, what it writes, and the version that enters its fingerprint."""

    name: str
    reads: tuple[str, ...]
    writes: pa.Schema | None
    # None: a checkpoint or a report, stored as files.
    version: int = 1
    # Raise it when the same config and inputs give different rows than before.


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("base_model", (), None),
        Stage("questions", (), QUESTIONS),
        Stage("traces", ("questions",), TRACES),
        Stage("tool_insertion", ("traces",), TOOL_TRACES),
        Stage("loss_filter", ("tool_insertion", "base_model"), FILTERED),
        Stage("sft", ("loss_filter", "base_model"), None),
        Stage("cold_start", ("loss_filter", "sft", "base_model"), None),
        Stage("grpo", ("questions", "cold_start", "base_model"), None),
        Stage("evaluate", ("questions", "base_model"), EVALUATIONS),
        Stage("report", ("*",), None),
    )
}


def check_columns(stage: str, schema: pa.Schema, expected: pa.Schema) -> None:
    """Raise SchemaMismatch unless `schema` has exactly the names and types of `expected` (order included)."""
    if schema.equals(expected, check_metadata=False):
        return
    have, want = {f.name: f.type for f in schema}, {f.name: f.type for f in expected}
    missing = [n for n in want if n not in have]
    extra = [n for n in have if n not in want]
    wrong = [f"{n}: {have[n]} instead of {want[n]}" for n in want if n in have and have[n] != want[n]]
    raise SchemaMismatch(
        f"stage {stage!r}: missing columns {missing}, unexpected {extra}, wrong types {wrong}; available: {list(have)}"
    )
