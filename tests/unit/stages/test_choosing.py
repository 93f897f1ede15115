"""What training sees: the cold start's few samples, and the questions of GRPO, chosen the same way every time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_rows import filtered_rows, question_rows
from pydantic import ValidationError

from agentflow.errors import InputError
from agentflow.rewards.parts import count_words
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.stages.cold_start import choose as choose_samples
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.training.config import OptimiserSettings

FEW = OptimiserSettings(batch_size=2, accumulation=4)


# ---------------------------------------------------------------- cold start
def sample(row_id, words, template="t", decision="kept", kind="arithmetic"):
    return {"id": row_id, "reasoning": "w " * words, "template": template, "kind": kind, "decision": decision}


def test_the_choice_does_not_depend_on_the_order_of_the_rows():
    rows = filtered_rows(40)
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    config = ColdStartConfig(n_samples=20, min_words=1)
    assert choose_samples(rows, config) == choose_samples(shuffled, config)


def test_every_chosen_sample_says_why():
    rows = filtered_rows(40)
    by_id = {row["id"]: row for row in rows}
    chosen = choose_samples(rows, ColdStartConfig(n_samples=20, min_words=1))
    assert len(chosen) == len({sample["id"] for sample in chosen}) == 20
    for one in chosen:
        row = by_id[one["id"]]
        assert one["template"] == row["template"] and one["words"] == count_words(row["reasoning"])
        assert one["why"].startswith("calls kept by the loss filter; number ")
        assert f"by length in {row['template']!r} ({one['words']} words)" in one["why"]


def test_templates_take_turns_and_the_shortest_of_each_comes_first():
    rows = [sample("a2", 30, "a"), sample("a1", 20, "a"), sample("b1", 40, "b"), sample("a3", 50, "a")]
    chosen = choose_samples(rows, ColdStartConfig())
    assert [one["id"] for one in chosen] == ["a1", "b1", "a2", "a3"]


def test_only_rows_whose_calls_were_kept_qualify():
    rows = [
        sample("kept", 20),
        sample("removed", 20, decision="calls_removed"),
        sample("none", 20, decision="no_calls"),
    ]
    assert [one["id"] for one in choose_samples(rows, ColdStartConfig())] == ["kept"]


def test_the_word_bounds_themselves_count():
    rows = [sample(f"w{n:03d}", n) for n in (13, 14, 100, 101)]
    assert [one["id"] for one in choose_samples(rows, ColdStartConfig())] == ["w014", "w100"]


def test_rows_without_a_template_are_varied_by_kind():
    rows = [
        sample("g1", 20, "", kind="gsm8k"),
        sample("g2", 21, "", kind="gsm8k"),
        sample("h1", 30, "", kind="hotpotqa"),
    ]
    assert [one["id"] for one in choose_samples(rows, ColdStartConfig(n_samples=2))] == ["g1", "h1"]


@given(st.lists(st.tuples(st.integers(0, 120), st.sampled_from("abc")), max_size=150), st.integers(1, 99))
def test_never_a_hundred_samples_and_never_one_twice(given_rows, n):
    rows = [sample(f"r{i}", words, template) for i, (words, template) in enumerate(given_rows)]
    fitting = sum(14 <= words <= 100 for words, _ in given_rows)
    if not fitting:
        with pytest.raises(InputError, match=f"none of {len(rows)} rows has kept calls"):
            choose_samples(rows, ColdStartConfig(n_samples=n))
        return
    chosen = choose_samples(rows, ColdStartConfig(n_samples=n))
    assert len({one["id"] for one in chosen}) == len(chosen) == min(n, fitting) < 100


def test_a_hundred_samples_cannot_be_asked_for():
    with pytest.raises(ValidationError, match="less than 100"):
        ColdStartConfig(n_samples=100)


# ---------------------------------------------------------------- grpo
def test_as_many_prompts_as_the_steps_need_and_only_training_questions():
    rows = question_rows(12, two_hop=6)
    chosen = choose_prompts(rows, GrpoConfig(optimiser=FEW, group_size=4, steps=3), workers=2)
    assert len(chosen) == 3 * (2 * 4 * 2 // 4)
    assert {row["split"] for row in chosen} == {"train"}
    assert len({row["id"] for row in chosen}) == len(chosen), "no question twice while others are left"


def test_too_few_questions_are_used_again_in_the_same_order():
    rows = question_rows(3)
    chosen = choose_prompts(rows, GrpoConfig(optimiser=FEW, group_size=4, steps=4), workers=1)
    assert len(chosen) == 8
    ids = [row["id"] for row in chosen]
    assert ids[:3] == ids[3:6] and len(set(ids)) == 3 and ids[6:] == ids[:2]


def test_the_order_depends_on_the_seed_and_not_on_the_order_of_the_rows():
    rows = question_rows(20)

    def ids(given_rows, seed=0):
        optimiser = OptimiserSettings(batch_size=2, accumulation=4, seed=seed)
        return [row["id"] for row in choose_prompts(given_rows, GrpoConfig(optimiser=optimiser, steps=20), workers=1)]

    assert ids(rows) == ids(rows[::-1])
    assert ids(rows, seed=1) != ids(rows) and sorted(ids(rows, seed=1)) == sorted(ids(rows))


def test_questions_may_be_limited_to_kinds():
    rows = question_rows(4, two_hop=4)
    config = GrpoConfig(kinds=("two_hop",), optimiser=FEW, steps=2)
    assert {row["kind"] for row in choose_prompts(rows, config, workers=1)} == {"two_hop"}
    with pytest.raises(InputError, match=r"no training question of kinds \('poetry',\); available: \['arithmetic'"):
        choose_prompts(rows, GrpoConfig(kinds=("poetry",), optimiser=FEW), workers=1)


def test_a_step_must_hold_whole_groups():
    with pytest.raises(ValidationError, match="batch_size \\* accumulation = 6 is not a multiple of group_size = 4"):
        GrpoConfig(group_size=4, optimiser=OptimiserSettings(batch_size=2, accumulation=3))
