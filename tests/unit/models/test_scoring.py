"""Losses do not depend on how they are computed: in batches, with shared beginnings, or one text at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipeline_rows import tool_trace_rows

from agentflow.errors import ConfigError, UnscorableRow
from agentflow.models.loading import load_model
from agentflow.models.packing import pack
from agentflow.models.scoring import Arm, LossScorer, Pair, TrialRule, make_batches, make_pair, make_trial
from agentflow.models.trials import TOOLFORMER_WEIGHTS
from agentflow.records import Span
from agentflow.stages.loss_filter import LossFilterConfig, empty_result, scorer_input, shared_prefix

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


def naive(model, prefix_ids, arm, weights=None):
    """One text, one full forward pass, every logit: the definition."""
    tokens = torch.tensor([prefix_ids + arm.input_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens).logits[0].double(), dim=-1)
    places = [len(prefix_ids) + position for position in arm.common]
    losses = [-logprobs[place - 1, tokens[0, place]].item() for place in places]
    weights = weights or [1 / len(losses)] * len(losses)
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


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


# ---------------------------------------------------------------- the rules
RULES = [
    {"granularity": "per_call"},
    {"baseline": "min"},
    {"granularity": "per_call", "baseline": "min"},
    {"weighting": "toolformer"},
    {"weighting": "toolformer", "granularity": "sample"},
]


def trials_of(rows, tokenizer, config):
    rule = TrialRule(config.weighting, config.granularity, empty_result(config))
    return [make_trial(row["id"], *scorer_input(row, config), tokenizer, rule) for row in rows]


def agrees(model, tokenizer, config, trials):
    prefix = tokenizer(shared_prefix(config), add_special_tokens=False)["input_ids"]
    scored = LossScorer(model, tokenizer, shared_prefix(config)).score_trials(trials)
    for trial, losses in zip(trials, scored, strict=True):
        for pair, loss in zip(trial.pairs, losses, strict=True):
            assert loss.plain == pytest.approx(naive(model, prefix, pair.plain, pair.weights), abs=1e-4)
            assert loss.called == pytest.approx(naive(model, prefix, pair.called, pair.weights), abs=1e-4)
            if pair.empty:
                assert loss.empty == pytest.approx(naive(model, prefix, pair.empty, pair.weights), abs=1e-4)


@pytest.mark.parametrize("syntax", ["compact", "json"])
@pytest.mark.parametrize("settings", RULES, ids=lambda rule: "-".join(rule.values()))
def test_under_every_rule_shared_beginnings_change_no_loss(rows, tiny_model, tiny_tokenizer, settings, syntax):
    config = LossFilterConfig(**settings, n_examples=1)
    config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"syntax": syntax})})
    trials = trials_of(rows[:4], tiny_tokenizer, config)
    assert [len(t.pairs) for t in trials] == [r["n_calls"] if config.granularity == "per_call" else 1 for r in rows[:4]]
    agrees(tiny_model, tiny_tokenizer, config, trials)


def test_eager_attention_gives_the_same_losses(tiny_base, tiny_tokenizer, rows):
    model = load_model(tiny_base).eval()
    model.set_attn_implementation("eager")
    agrees(model, tiny_tokenizer, CONFIG, trials_of(rows[:3], tiny_tokenizer, CONFIG))


def test_a_model_with_a_sliding_window_is_scored_text_by_text(tiny_tokenizer, rows):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = MistralConfig(vocab_size=len(tiny_tokenizer), num_key_value_heads=1, sliding_window=24, **sizes)
    config = LossFilterConfig(baseline="min", n_examples=0)
    agrees(MistralForCausalLM(settings).eval(), tiny_tokenizer, config, trials_of(rows[:3], tiny_tokenizer, config))


def test_a_model_whose_logits_are_capped_is_refused(tiny_base, tiny_tokenizer):
    model = load_model(tiny_base)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        LossScorer(model, tiny_tokenizer)


def test_what_arms_have_in_common_is_fed_once(rows, tiny_tokenizer):
    for settings in [{}, *RULES]:
        for trial in trials_of(rows[:3], tiny_tokenizer, LossFilterConfig(**settings)):
            arms = [arm for pair in trial.pairs for arm in pair.arms]
            assert trial.length < sum(len(arm.input_ids) for arm in arms) * 0.8


tokens = st.lists(st.integers(0, 2), min_size=2, max_size=8)


@given(st.lists(st.tuples(tokens, st.integers(1, 7)), min_size=1, max_size=5))
def test_every_packed_token_sees_exactly_the_beginning_of_its_own_text(texts):
    arms = [Arm(ids, [min(place, len(ids) - 1)]) for ids, place in texts]
    packed = pack(arms)
    for arm, reads in zip(arms, packed.reads, strict=True):
        ((place, token),) = reads
        trunk = [i for i in range(packed.trunk[place]) if packed.branch[i] == 0 and packed.branch[place] != 0]
        own = [i for i in range(place + 1) if packed.branch[i] == packed.branch[place]]
        assert [packed.ids[i] for i in trunk + own] == arm.input_ids[: arm.common[0]]
        assert [packed.positions[i] for i in trunk + own] == list(range(arm.common[0]))
        assert token == arm.input_ids[arm.common[0]]


def test_toolformers_weights_are_normalised_and_stand_at_the_five_tokens_behind_the_call(rows, tiny_tokenizer):
    assert [round(3 * weight, 9) for weight in TOOLFORMER_WEIGHTS] == [1, 0.8, 0.6, 0.4, 0.2]
    assert sum(TOOLFORMER_WEIGHTS) == pytest.approx(1)
    (trial,) = trials_of(rows[:1], tiny_tokenizer, LossFilterConfig(weighting="toolformer"))
    for pair in trial.pairs:
        assert pair.weights == pytest.approx(TOOLFORMER_WEIGHTS)
        after = tiny_tokenizer.decode(pair.plain.input_ids[: pair.plain.common[0]])
        assert after.endswith("="), "the weighted tokens begin where the call was"
        prefix = tiny_tokenizer.decode(pair.called.input_ids)
        assert prefix.index("[Calculator(") < prefix.index("<think>"), "the call is a prefix of the reasoning"
        assert prefix.count("[Calculator(") == 1


def test_near_the_end_of_the_text_weights_that_find_no_token_are_left_out(tiny_tokenizer):
    spans = [Span("think", "6*7 ="), Span("call", " [C(6*7) ->"), Span("result", " 42]"), Span("answer", "ab")]
    n = len(tiny_tokenizer("ab", add_special_tokens=False)["input_ids"])
    (pair,) = make_trial("row", "q", spans, tiny_tokenizer, TrialRule("toolformer", "per_call")).pairs
    assert 0 < n < 5 and pair.weights == pytest.approx(TOOLFORMER_WEIGHTS[:n])


def test_a_samples_calls_share_its_loss_by_the_text_behind_each(rows, scorer, tiny_tokenizer):
    (trial,) = trials_of(rows[:1], tiny_tokenizer, CONFIG)
    ((loss,),) = scorer.score_trials([trial])
    assert len(loss.calls) == rows[0]["n_calls"] > 1
    assert sum(part.n_common for part in loss.calls) == loss.n_common
    for name in ("plain", "called"):
        parts = sum(getattr(part, name) * part.n_common for part in loss.calls)
        assert parts / loss.n_common == pytest.approx(getattr(loss, name), abs=1e-4)


def test_of_two_calls_at_one_place_the_first_has_no_text_of_its_own(scorer, tiny_tokenizer):
    call = [Span("call", " [C(6*7) ->"), Span("result", " 42]")]
    spans = [Span("think", "<think>6*7 ="), *call, *call, Span("think", " 42</think>")]
    ((loss,),) = scorer.score_trials([make_trial("row", "q", spans, tiny_tokenizer)])
    assert loss.calls[0] is None and loss.calls[1].n_common == loss.n_common


def test_a_tokenizer_that_cuts_the_same_text_in_two_ways_is_found_out(rows, tiny_tokenizer):
    class Dropout:
        """BPE dropout, as some training tokenizers have it: every time another cut."""

        calls = 0

        def __call__(self, text, **settings):
            self.calls += 1
            ids = tiny_tokenizer(text, **settings)["input_ids"]
            return {"input_ids": ids if self.calls % 2 else [ids[0], *ids]}

    for config in (CONFIG, LossFilterConfig(weighting="toolformer")):
        with pytest.raises(UnscorableRow) as caught:
            trials_of(rows[:1], Dropout(), config)
        assert caught.value.kind == "arms_misaligned" and rows[0]["id"] in str(caught.value)


def test_a_call_that_nothing_follows_cannot_be_scored(tiny_tokenizer):
    spans = [Span("think", "6*7 ="), Span("call", " [C(6*7) ->"), Span("result", " 42]")]
    with pytest.raises(UnscorableRow) as caught:
        make_pair("row", "q", spans, tiny_tokenizer)
    assert caught.value.kind == "nothing_after_the_call"
