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
        ("kind", _S),  # "text", "call", or "mistake" (only in what a cold start is trained on)
        ("text", _S),  # the teacher's characters ("" for calls)
        ("tool", _S),
        ("arguments", _S),  # canonical JSON object
        ("result", _S),
        ("result_error", _S),  # reason if the arguments were refused
        ("ledger_key", _S),  # the paid call behind the result
        ("as_of", _S),  # ISO date of a stored external answer
        ("leaks", _I),  # search results that hold the question and its gold answer (null for text)
        ("blocked", _I),  # search results left out for their address
    ]
)

# An equation that the calculator contradicts (insertion.contradictions).
CONTRADICTION = pa.struct(
    [
        ("at", _I),  # offset of the stated result in the reasoning as it now is
        ("expression", _S),
        ("stated", _S),  # as the teacher wrote it
        ("computed", _S),  # what the calculator says, "" if it refuses
        ("action", _S),  # "kept" or "corrected": then `computed` stands at `at`
        ("later_uses", _I),  # times the wrong number stands in the text behind it, left as they are
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
        ("contradictions", pa.list_(CONTRADICTION)),  # where the teacher's arithmetic is wrong; usually empty
        ("lookups_key", _S),  # the paid call in which the teacher marked lookups, "" where it was not asked
    ]
)

# What the loss filter measured of one call. For granularity per_call of this call alone; for sample its share of the
# sample's loss, over the tokens up to the next call, for the record only (null where there are none).
CALL_SCORE = pa.struct(
    [
        ("tool", _S),
        ("kept", _B),
        ("loss_plain", _F),
        ("loss_with", _F),
        ("loss_empty", _F),
        ("delta", _F),
        ("n_common", _I),
    ]
)

FILTERED = pa.schema(
    [
        *TOOL_TRACES,
        ("decision", _S),  # "kept", "some_calls_kept", "calls_removed" (loser, stays without calls) or "no_calls"
        # Nats a token. Of the whole sample; for granularity per_call the mean over its calls. null for no_calls.
        ("loss_plain", _F),  # over the common tokens without calls
        ("loss_with", _F),  # the same with calls and results
        ("loss_empty", _F),  # the same with calls whose results are empty; null unless baseline is "min"
        ("delta", _F),  # loss_plain (or the smaller of it and loss_empty) - loss_with, to 1e-4; > 0: the calls help
        ("n_common", _I),  # tokens the losses run over
        ("n_calls_before", _I),  # calls inserted before the filter
        ("call_scores", pa.list_(CALL_SCORE)),  # one for each of them, in order
    ]
)

# A piece of a completion by who wrote it; the spans of one completion follow each other without a gap.
WRITTEN = pa.struct(
    [
        ("role", _S),  # "given" (stood in the prompt), "text" or "call" (the policy's), "result" (a tool's, injected)
        ("begin", _I),  # characters of `completion`: the first, and the one behind the last
        ("end", _I),
        ("tool", _S),  # of calls and results, else null
        ("ledger_key", _S),  # the paid call behind a result, null for local tools
    ]
)

ROLLOUTS = pa.schema(
    [
        ("id", _S),  # "<step>-<group>-<sample>"
        ("step", _I),
        ("question_id", _S),
        ("prompt", _S),
        ("completion", _S),
        ("spans", pa.list_(WRITTEN)),  # of `completion`
        ("gold", _S),
        ("answer", _S),  # null where none could be read
        ("n_calls", _I),
        ("rewards", _S),  # JSON object part -> value
        ("reward", _F),  # null for failed rollouts
        ("advantage", _F),  # null where it carries no loss
        ("left_out", _S),  # why it carries no loss though no tool failed (training.sampling); null where it does
        ("given", _I),  # characters of `completion` that stood in the prompt (grpo.solution_prefix)
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
        Stage("questions", (), QUESTIONS, version=2),
        Stage("traces", ("questions",), TRACES, version=4),
        Stage("tool_insertion", ("traces",), TOOL_TRACES, version=4),
        Stage("loss_filter", ("tool_insertion", "base_model"), FILTERED, version=3),
        Stage("sft", ("loss_filter", "base_model"), None, version=2),
        Stage("cold_start", ("loss_filter", "sft", "base_model"), None, version=2),
        Stage("grpo", ("questions", "cold_start", "base_model"), None, version=4),
        Stage("evaluate", ("questions", "base_model"), EVALUATIONS, version=3),
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
