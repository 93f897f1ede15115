"""Losses do not depend on how they are computed: in batches, behind a cached prefix, or one by one."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipeline_rows import tool_trace_rows

from agentflow.models.scoring import Arm, LossScorer, Pair, make_batches, make_pair
from agentflow.records import Span
from agentflow.stages.loss_filter import LossFilterConfig, decide, scorer_input, shared_prefix

CONFIG = LossFilterConfig()


@pytest.fixture(scope="module")
def rows():
    return tool_trace_rows(12)


@pytest.fixture(scope="module")
def pairs(rows, tiny_tokenizer):
    return [make_pair(row["id"], *scorer_input(row, CONFIG), tiny_tokenizer) for row in rows]


@pytest.fixture(scope="module")
def scorer(tiny_model, tiny_tokenizer):
    return LossScorer(tiny_model, tiny_tokenizer, shared_prefix(CONFIG))


def naive(model, prefix_ids, arm):
    """One arm, one full forward pass, every logit: the definition."""
    tokens = torch.tensor([prefix_ids + arm.input_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens).logits[0].double(), dim=-1)
    places = [len(prefix_ids) + position for position in arm.common]
    return -sum(logprobs[place - 1, tokens[0, place]].item() for place in places) / len(places)


def test_batched_losses_behind_a_cached_prefix_equal_full_forward_passes_one_by_one(
    scorer, pairs, tiny_model, tiny_tokenizer
):
    prefix = tiny_tokenizer(shared_prefix(CONFIG), add_special_tokens=False)["input_ids"]
    assert len(prefix) > 100
    for pair, loss in zip(pairs, scorer.score(pairs), strict=True):
        assert loss.id == pair.id and loss.n_common == len(pair.plain.common)
        assert loss.plain == pytest.approx(naive(tiny_model, prefix, pair.plain), abs=1e-4)
        assert loss.called == pytest.approx(naive(tiny_model, prefix, pair.called), abs=1e-4)


def test_without_a_prefix_the_same_holds(pairs, tiny_model, tiny_tokenizer):
    for pair, loss in zip(pairs, LossScorer(tiny_model, tiny_tokenizer).score(pairs), strict=True):
        assert loss.plain == pytest.approx(naive(tiny_model, [], pair.plain), abs=1e-4)
        assert loss.called == pytest.approx(naive(tiny_model, [], pair.called), abs=1e-4)


def test_the_prefix_is_context_and_changes_the_losses(scorer, pairs, tiny_model, tiny_tokenizer):
    bare = LossScorer(tiny_model, tiny_tokenizer).score(pairs)
    assert all(a.plain != b.plain for a, b in zip(scorer.score(pairs), bare, strict=True))


def test_scoring_twice_gives_the_same_since_the_cached_prefix_is_not_written_to(scorer, pairs):
    assert scorer.score(pairs[:3]) == scorer.score(pairs[:3])


def test_decisions_depend_neither_on_the_batches_nor_on_their_order(rows, scorer, pairs):
    def decisions(batches):
        scores = {loss.id: loss for batch in batches for loss in scorer.score(batch)}
        return [(row["id"], row["decision"]) for row in decide(rows, scores, CONFIG).rows]

    shuffled = pairs[:]
    random.Random(0).shuffle(shuffled)
    ways = [[pairs], [[pair] for pair in shuffled], make_batches(shuffled, 600), [shuffled[:5], shuffled[5:]]]
    first, *others = [decisions(way) for way in ways]
    assert all(other == first for other in others)
    assert {decision for _, decision in first} <= {"kept", "calls_removed"}


def test_the_common_tokens_of_both_arms_are_the_same_and_stand_after_the_first_call(pairs, tiny_tokenizer):
    for pair in pairs:
        tokens = [[arm.input_ids[i] for i in arm.common] for arm in (pair.plain, pair.called)]
        assert tokens[0] == tokens[1]
        assert tiny_tokenizer.decode(tokens[0]).endswith("</answer>")
        assert "[Calculator(" not in tiny_tokenizer.decode(tokens[1]), "calls and results are context only"
        before = tiny_tokenizer.decode(pair.called.input_ids[: pair.called.common[0]])
        assert before.count("[Calculator(") == 1 and before.endswith("]")


def test_a_call_at_the_very_end_leaves_the_closing_tags_and_the_answer_as_common_tokens(tiny_tokenizer):
    spans = [Span("think", "<think>6*7 ="), Span("call", " [C(6*7) ->"), Span("result", " 42]")]
    spans += [Span("think", "</think>"), Span("answer", "<answer>42</answer>")]
    pair = make_pair("row", "q", spans, tiny_tokenizer)
    assert tiny_tokenizer.decode([pair.plain.input_ids[i] for i in pair.plain.common]) == "</think><answer>42</answer>"


def test_a_model_that_breaks_down_gives_losses_that_say_so(tiny_tokenizer, tiny_base, pairs):
    from agentflow.models.loading import load_model

    model = load_model(tiny_base)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    losses = LossScorer(model, tiny_tokenizer).score(pairs[:2])
    assert all(math.isnan(loss.plain) and not loss.finite for loss in losses)


def pair_of(row_id, length):
    return Pair(row_id, Arm([0] * (length - 1), [1]), Arm([0] * length, [2]))


lengths = st.lists(st.integers(3, 60), min_size=1, max_size=30)


@given(lengths, st.integers(1, 200), st.randoms())
def test_batches_hold_every_pair_once_within_the_budget_and_whatever_the_input_order(sizes, budget, chance):
    pairs = [pair_of(f"row-{i}", size) for i, size in enumerate(sizes)]
    batches = make_batches(pairs, budget)
    assert sorted(pair.id for batch in batches for pair in batch) == sorted(pair.id for pair in pairs)
    for batch in batches:
        assert batch and (len(batch) == 1 or len(batch) * max(pair.length for pair in batch) <= budget)
    shuffled = pairs[:]
    chance.shuffle(shuffled)
    assert make_batches(shuffled, budget) == batches


# ---------------------------------------------------------------- the rule itself
def score(plain, called):
    return SimpleNamespace(plain=plain, called=called, n_common=9)


def decided(rows, plain, called, **settings):
    row = rows[0]
    return decide([row], {row["id"]: score(plain, called)}, LossFilterConfig(**settings))


def test_calls_that_lower_the_loss_are_kept_with_their_numbers(rows):
    (row,) = decided(rows, 2.0, 1.25).rows
    assert row["decision"] == "kept" and row["segments"] == rows[0]["segments"]
    assert (row["loss_plain"], row["loss_with"], row["delta"], row["n_common"]) == (2.0, 1.25, 0.75, 9)
    assert row["n_calls"] == row["n_calls_before"] == rows[0]["n_calls"]


@pytest.mark.parametrize("called", [2.0, 2.00004, 1.99996, 2.5])
def test_equality_does_not_keep_a_call_and_the_losing_sample_survives_without_it(rows, called):
    outcomes = decided(rows, 2.0, called)
    (row,) = outcomes.rows
    assert row["decision"] == "calls_removed" and outcomes.rejects == []
    assert row["n_calls"] == 0 and row["n_calls_before"] == rows[0]["n_calls"] > 0
    assert [segment["kind"] for segment in row["segments"]] == ["text"]
    assert row["segments"][0]["text"] == rows[0]["reasoning"]


def test_losers_may_be_dropped_instead(rows):
    outcomes = decided(rows, 2.0, 2.0, losers="drop")
    (reject,) = outcomes.rejects
    assert outcomes.rows == [] and (outcomes.keys_in, outcomes.keys_out) == (1, 0)
    assert (reject.status, reject.reason) == ("dropped", "calls_do_not_help")
    assert reject.detail == "loss 2.0 without and 2.0 with calls" and reject.row == rows[0]


def test_tau_is_a_margin_that_must_be_exceeded(rows):
    assert decided(rows, 2.0, 1.5, tau=0.5).rows[0]["decision"] == "calls_removed"
    assert decided(rows, 2.0, 1.4999, tau=0.5).rows[0]["decision"] == "kept"


@pytest.mark.parametrize("plain, called", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, -math.inf)])
@pytest.mark.parametrize("losers", ["keep_without_calls", "drop"])
def test_a_loss_that_is_no_number_quarantines_its_row_alone(rows, plain, called, losers):
    bad, good = rows[:2]
    scores = {bad["id"]: score(plain, called), good["id"]: score(2.0, 1.0)}
    outcomes = decide([bad, good], scores, LossFilterConfig(losers=losers))
    assert [row["id"] for row in outcomes.rows] == [good["id"]]
    (reject,) = outcomes.rejects
    assert (reject.key, reject.status, reject.reason) == (bad["id"], "quarantined", "loss_not_finite")
    assert (outcomes.keys_in, outcomes.keys_out) == (2, 1)


def test_rows_without_calls_need_no_score(rows):
    row = {**rows[0], "segments": [], "n_calls": 0}
    (filtered,) = decide([row], {}, CONFIG).rows
    assert filtered["decision"] == "no_calls"
    assert filtered["loss_plain"] is filtered["loss_with"] is filtered["delta"] is filtered["n_common"] is None
