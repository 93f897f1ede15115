"""The filter's rule: which calls stay, what is recorded, and that nothing else has a say in it."""

from __future__ import annotations

import math
import random

import pyarrow as pa
import pytest
from pipeline_rows import tool_trace_rows
from pydantic import ValidationError

from agentflow.config import identity
from agentflow.models.filtering import SHARD_ROWS, RowScorer
from agentflow.schemas import FILTERED
from agentflow.stages.loss_filter import LossFilterConfig, RowScore, Score, decide, nothing_kept

TOOLFORMER = LossFilterConfig(weighting="toolformer")


@pytest.fixture(scope="module")
def rows():
    return tool_trace_rows(12)


@pytest.fixture(scope="module")
def row(rows):
    return next(row for row in rows if row["n_calls"] == 2)


def sample(plain, called, **more):
    return RowScore(Score(plain, called, 9, **more))


def decided(row, score, **settings):
    return decide([row], {row["id"]: score}, LossFilterConfig(**settings))


# ---------------------------------------------------------------- paper A's rule
def test_calls_that_lower_the_loss_are_kept_with_their_numbers(row):
    (found,) = decided(row, sample(2.0, 1.25)).rows
    assert found["decision"] == "kept" and found["segments"] == row["segments"]
    losses = ("loss_plain", "loss_with", "loss_empty", "delta", "n_common")
    assert tuple(found[name] for name in losses) == (2.0, 1.25, None, 0.75, 9)
    assert found["n_calls"] == found["n_calls_before"] == 2
    assert [score["kept"] for score in found["call_scores"]] == [True, True]


@pytest.mark.parametrize("called", [2.0, 2.00004, 1.99996, 2.5])
def test_equality_does_not_keep_a_call_and_the_losing_sample_survives_without_it(row, called):
    outcomes = decided(row, sample(2.0, called))
    (found,) = outcomes.rows
    assert found["decision"] == "calls_removed" and outcomes.rejects == []
    assert found["n_calls"] == 0 and found["n_calls_before"] == 2
    assert [segment["kind"] for segment in found["segments"]] == ["text"]
    assert found["segments"][0]["text"] == row["reasoning"]


def test_losers_may_be_dropped_and_keep_their_calls_and_losses_among_the_rejects(row):
    outcomes = decided(row, sample(2.0, 2.25), losers="drop")
    (reject,) = outcomes.rejects
    assert outcomes.rows == [] and (outcomes.keys_in, outcomes.keys_out) == (1, 0)
    assert (reject.key, reject.status, reject.reason) == (row["id"], "dropped", "calls_do_not_help")
    assert reject.detail == "loss 2.0 without and 2.25 with calls"
    assert reject.row["segments"] == row["segments"] and reject.row["delta"] == -0.25


def test_tau_is_a_margin_that_must_be_exceeded_or_with_the_other_test_reached(row):
    assert decided(row, sample(2.0, 1.5), tau=0.5).rows[0]["decision"] == "calls_removed"
    assert decided(row, sample(2.0, 1.4999), tau=0.5).rows[0]["decision"] == "kept"
    assert decided(row, sample(2.0, 1.5), tau=0.5, test=">=").rows[0]["decision"] == "kept"


def test_the_baseline_may_be_the_call_without_its_result(row):
    score = sample(2.0, 1.5, empty=1.2)
    (found,) = decided(row, score, baseline="min").rows
    assert (found["decision"], found["loss_empty"], found["delta"]) == ("calls_removed", 1.2, -0.3)


# ---------------------------------------------------------------- call by call
def test_toolformers_rule_is_a_whole_unless_a_part_is_given():
    assert (TOOLFORMER.granularity, TOOLFORMER.baseline, TOOLFORMER.tau, TOOLFORMER.test) == (
        "per_call", "min", 1.0, ">=",
    )  # fmt: skip
    assert LossFilterConfig(weighting="toolformer", tau=0.1, test=">").model_dump(include={"tau", "test"}) == {
        "tau": 0.1,
        "test": ">",
    }
    plain = LossFilterConfig()
    assert (plain.granularity, plain.baseline, plain.tau, plain.test) == ("sample", "no_call", 0.0, ">")


def test_each_call_is_judged_by_itself_and_the_text_stays_byte_for_byte(row):
    score = RowScore(calls=(Score(3.0, 2.5, 5, empty=2.9), Score(3.0, 1.0, 5, empty=2.0)))
    (found,) = decided(row, score, weighting="toolformer").rows
    assert found["decision"] == "some_calls_kept" and (found["n_calls"], found["n_calls_before"]) == (1, 2)
    calls = [segment for segment in row["segments"] if segment["kind"] == "call"]
    assert [segment for segment in found["segments"] if segment["kind"] == "call"] == [calls[1]]
    assert "".join(segment["text"] for segment in found["segments"]) == row["reasoning"]
    assert [(s["kept"], s["delta"]) for s in found["call_scores"]] == [(False, 0.4), (True, 1.0)]
    assert (found["loss_plain"], found["loss_with"], found["delta"]) == (3.0, 1.75, 0.7), "means, for the record"


def test_a_row_all_of_whose_calls_lose_is_a_loser(row):
    score = RowScore(calls=(Score(3.0, 2.5, 5), Score(3.0, 2.9, 5)))
    assert decided(row, score, weighting="toolformer").rows[0]["decision"] == "calls_removed"
    assert decided(row, score, weighting="toolformer", losers="drop").rejects[0].reason == "calls_do_not_help"
    assert decided(row, score, granularity="per_call").rows[0]["decision"] == "kept"


def test_every_decision_fits_the_schema(rows, row):
    scores = [
        (sample(2.0, 1.0), {}),
        (sample(2.0, 3.0), {}),
        (RowScore(Score(2.0, 1.0, 9), (None, Score(2.0, 1.0, 9))), {}),
        (RowScore(calls=(Score(3.0, 2.5, 5, 2.9), Score(3.0, 1.0, 5, 2.0))), {"weighting": "toolformer"}),
    ]
    found = [decided(row, score, **settings).rows[0] for score, settings in scores]
    found += decide([{**row, "n_calls": 0, "segments": []}], {}, LossFilterConfig()).rows
    assert pa.Table.from_pylist(found, schema=FILTERED).num_rows == 5
    assert all(set(one) <= set(FILTERED.names) for one in found)


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize("plain, called", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, -math.inf)])
@pytest.mark.parametrize("losers", ["keep_without_calls", "drop"])
def test_a_loss_that_is_no_number_quarantines_its_row_alone(rows, plain, called, losers):
    bad, good = rows[:2]
    scores = {bad["id"]: sample(plain, called), good["id"]: sample(2.0, 1.0)}
    outcomes = decide([bad, good], scores, LossFilterConfig(losers=losers))
    assert [row["id"] for row in outcomes.rows] == [good["id"]]
    (reject,) = outcomes.rejects
    assert (reject.key, reject.status, reject.reason) == (bad["id"], "quarantined", "loss_not_finite")
    assert (outcomes.keys_in, outcomes.keys_out) == (2, 1)


def test_one_call_without_a_number_quarantines_the_whole_row(row):
    score = RowScore(calls=(Score(3.0, 1.0, 5, empty=math.nan), Score(3.0, 1.0, 5, empty=2.0)))
    assert decided(row, score, weighting="toolformer").rejects[0].reason == "loss_not_finite"


def test_rows_without_calls_need_no_score(row):
    bare = {**row, "segments": [], "n_calls": 0}
    (found,) = decide([bare], {}, LossFilterConfig()).rows
    assert found["decision"] == "no_calls" and found["call_scores"] == []
    assert found["loss_plain"] is found["loss_with"] is found["delta"] is found["n_common"] is None


def test_a_row_longer_than_the_models_context_is_quarantined_and_the_others_are_scored(
    rows, tiny_model, tiny_tokenizer
):
    scorer = RowScorer(tiny_model, tiny_tokenizer, LossFilterConfig(n_examples=0))
    long = {**rows[0], "question": "clips " * 4000}
    plan = scorer.plan([long, *rows[1:3]])
    assert {i for shard in plan.shards for batch in shard for i in batch} == {row["id"] for row in rows[1:3]}
    (reject,) = decide([long], plan.refused, LossFilterConfig()).rejects
    assert (reject.status, reject.reason) == ("quarantined", "longer_than_context")
    assert "2048" in reject.detail


@pytest.mark.parametrize("losers", ["keep_without_calls", "drop"])
def test_a_filter_that_keeps_no_call_at_all_says_so_with_the_largest_fall(row, losers):
    config = LossFilterConfig(tau=0.5, losers=losers)
    scores = {"a": sample(2.0, 1.9), "b": sample(2.0, 1.75)}
    lost = decide([{**row, "id": row_id} for row_id in scores], scores, config)
    warning = nothing_kept(lost, config)
    assert (
        warning is not None and "calls of 2 rows" in warning and "fell by 0.25" in warning and "asks for 0.5" in warning
    )
    won = decide([{**row, "id": row_id} for row_id in scores], {**scores, "b": sample(2.0, 1.0)}, config)
    assert nothing_kept(won, config) is None
    without_calls = {**row, "n_calls": 0, "segments": [{**row["segments"][0]}]}
    assert nothing_kept(decide([without_calls], {}, config), config) is None


def test_unknown_values_are_refused():
    for settings in ({"weighting": "linear"}, {"baseline": "max"}, {"test": "<"}, {"tau": -1}, {"n_examples": 3}):
        with pytest.raises(ValidationError):
            LossFilterConfig(**settings)


# ---------------------------------------------------------------- what must have no say
def kept_set(rows, scorer, config):
    plan = scorer.plan(rows)
    by_id = {row["id"]: row for row in rows}
    scores = dict(plan.refused)
    for shard in plan.shards:
        scores |= scorer.score([[by_id[row_id] for row_id in batch] for batch in shard])
    return sorted(
        (row["id"], row["decision"], [s["kept"] for s in row["call_scores"]])
        for row in decide(rows, scores, config).rows
    )


@pytest.mark.parametrize(
    "settings", [{}, {"granularity": "per_call"}, {"weighting": "toolformer", "tau": 0.0, "test": ">"}], ids=str
)
def test_the_kept_set_depends_neither_on_order_nor_on_batches(rows, tiny_model, tiny_tokenizer, settings):
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    found = []
    for budget, order in [(1024, rows), (1024, shuffled), (64, rows), (100_000, shuffled)]:
        config = LossFilterConfig(token_budget=budget, n_examples=1, **settings)
        found.append(kept_set(order, RowScorer(tiny_model, tiny_tokenizer, config), config))
    assert all(other == found[0] for other in found)
    if config.weighting == "toolformer":
        assert {kept for _, _, verdicts in found[0] for kept in verdicts} == {True, False}, "the rows tell something"


def test_shards_are_made_of_whole_batches_and_the_same_for_any_order(tiny_model, tiny_tokenizer):
    rows = tool_trace_rows(SHARD_ROWS + 8)
    scorer = RowScorer(tiny_model, tiny_tokenizer, LossFilterConfig(n_examples=0))
    plan = scorer.plan(rows)
    assert len(plan.shards) > 1 and all(sum(map(len, shard)) <= SHARD_ROWS for shard in plan.shards)
    assert sorted(i for shard in plan.shards for batch in shard for i in batch) == sorted(row["id"] for row in rows)
    assert scorer.plan(rows[::-1]) == plan


def test_the_batch_size_is_no_part_of_the_identity_and_every_rule_is():
    same = identity(LossFilterConfig())
    assert identity(LossFilterConfig(token_budget=4096)) == same
    for settings in ({"weighting": "toolformer"}, {"baseline": "min"}, {"granularity": "per_call"}, {"test": ">="}):
        assert identity(LossFilterConfig(**settings)) != same
