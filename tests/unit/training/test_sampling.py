"""Which rollouts are trained on: skipped groups, picks, second draws and weights, without a model."""

from __future__ import annotations

import math
import statistics
from itertools import combinations

import pytest
from pydantic import ValidationError

from agentflow.config import identity
from agentflow.models.settings import GenerationConfig, SamplingConfig
from agentflow.records import Rollout
from agentflow.rewards.conditional import conditional, verdict_of
from agentflow.rewards.groups import group_advantages
from agentflow.stages.grpo import GrpoConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.policy_options import HotSampling, ReferenceSettings
from agentflow.training.sampling import (
    GroupSampler,
    Scored,
    Step,
    opening_of,
    pick_varied,
    plain_fates,
    prompt_weight,
    row_seed,
    spare_order,
)

PARTS = {"accuracy": 2.0, "format": 1.0, "length": 1.0}


def config_of(**changes) -> GrpoConfig:
    optimiser = OptimiserSettings(batch_size=4, accumulation=2)
    return GrpoConfig(**{"group_size": 4, "optimiser": optimiser, **changes})


def sampler_of(rewards: dict[str, list[float | None]], workers: int = 1, **changes) -> tuple[GroupSampler, list[str]]:
    """A sampler for which prompt "a"'s samples earn `rewards["a"]` in turn; the second value is what was generated."""
    asked: list[str] = []
    left = {prompt: list(values) for prompt, values in rewards.items()}

    def score(prompts: list[str], rollouts: list[Rollout]) -> list[Scored]:
        scored = []
        for prompt, rollout in zip(prompts, rollouts, strict=True):
            reward = left[prompt].pop(0)
            verdict = None if reward is None else "right" if reward > 0 else "wrong"
            scored.append(Scored(rollout, None if reward is None else {"accuracy": reward}, reward, verdict))
        return scored

    def opening(prompt: str) -> str:
        return "" if prompt == "no solution" else f"<think>{prompt}"

    return GroupSampler(config_of(**changes), score, lambda step, rank: sorted(rewards), opening, workers), asked


def draw(sampler: GroupSampler, asked: list[str], *prompts: str, rank: int = 0) -> Step:
    def generate(texts: list[str], seeds: list[int]) -> list[Rollout]:
        asked.extend(texts)
        return [Rollout([1], [2], [1], [0.0], str(seed)) for seed in seeds]

    return sampler.draw([prompt for prompt in prompts for _ in range(sampler.config.group_size)], 3, rank, generate)


# ---------------------------------------------------------------- groups
def test_without_options_every_rollout_is_used_as_it_was_drawn():
    sampler, asked = sampler_of({"a": [1, 2, 3, 4], "b": [5, 5, None, 6]})
    step = draw(sampler, asked, "a", "b", rank=1)
    assert step.used == step.all and asked == ["a"] * 4 + ["b"] * 4
    rewards = [one.scored.reward for one in step.all]
    assert [one.fate for one in step.all] == plain_fates(rewards, 4, rank=1)
    assert [one.scored.rollout.text for one in step.all] == [str(row_seed(0, 3, 1, i)) for i in range(8)]
    assert [one.trained for one in step.all] == [True] * 6 + [False, True], "a failed rollout carries no loss"


@pytest.mark.parametrize(("left", "skipped"), [(2, False), (1, True), (0, True)])
def test_a_group_with_too_few_rollouts_left_is_skipped(left, skipped):
    sampler, asked = sampler_of({"a": [float(i) for i in range(left)] + [None] * (4 - left), "b": [1, 2, 3, 4]})
    step = draw(sampler, asked, "a", "b")
    first, second = step.used[:4], step.used[4:]
    assert {one.fate.left_out for one in first} == {"few_left" if skipped else None}
    assert sum(one.trained for one in first) == (0 if skipped else left)
    assert all(one.trained and one.fate.advantage is not None for one in second), "its neighbour is trained on"


def test_how_many_must_be_left_is_configured():
    sampler, asked = sampler_of({"a": [1, 2, 3, None]}, min_group=4)
    assert {one.fate.left_out for one in draw(sampler, asked, "a").used} == {"few_left"}


# ---------------------------------------------------------------- dynamic sampling
def test_equal_groups_are_replaced_by_other_questions():
    sampler, asked = sampler_of({"a": [1] * 4, "b": [1, 2, 3, 4], "c": [2] * 4, "d": [1, 1, 1, 2]}, dynamic_sampling=3)
    step = draw(sampler, asked, "a", "b")
    assert asked == ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4, "c was equal too, so d was asked"
    assert [one.prompt for one in step.used] == ["d"] * 4 + ["b"] * 4, "in the place of a"
    left_out = {one.prompt: one.fate.left_out for one in step.all}
    assert left_out == {"a": "equal_rewards", "b": None, "c": "equal_rewards", "d": None}
    assert len({(one.fate.group, one.fate.sample) for one in step.all}) == len(step.all) == 16


def test_draws_are_bounded_and_what_is_still_equal_carries_no_loss():
    sampler, asked = sampler_of({name: [1] * 4 for name in "abcdef"}, dynamic_sampling=2)
    step = draw(sampler, asked, "a", "b")
    assert len(step.all) == 4 * 2 * 3 == 8 * sampler.config.draws and len(step.used) == 8
    assert not any(one.trained for one in step.used)


def test_draws_end_where_the_questions_do():
    sampler, asked = sampler_of({name: [1] * 4 for name in "abc"}, dynamic_sampling=9)
    step = draw(sampler, asked, "a", "b")
    assert len(step.all) == 12 and [one.prompt for one in step.used] == ["c"] * 4 + ["b"] * 4


def test_a_second_draw_has_seeds_and_groups_of_its_own():
    assert row_seed(0, 3, 1, 2) == row_seed(0, 3, 1, 2, attempt=0) != row_seed(0, 3, 1, 2, attempt=1)
    groups = []
    for rank in (0, 1):
        sampler, asked = sampler_of({name: [1] * 4 for name in "abcd"}, workers=2, dynamic_sampling=1)
        groups += [one.fate.group for one in draw(sampler, asked, "a", "b", rank=rank).all[::4]]
    assert sorted(groups) == list(range(8)), "over all workers and draws"


def test_workers_share_out_the_spare_questions():
    ids = [f"q{i}" for i in range(9)]
    first, second = (spare_order(ids, 0, 5, rank, 2) for rank in (0, 1))
    assert sorted(first + second) == ids
    assert spare_order(ids, 0, 5, 0, 1) == spare_order(ids[::-1], 0, 5, 0, 1) != spare_order(ids, 0, 6, 0, 1)


# ---------------------------------------------------------------- solution prefixes
def test_a_question_that_no_rollout_solved_is_drawn_again_with_the_begin_of_its_solution():
    rewards = {"a": [-1, -2, -1, None, 1, -1, 1, 2], "b": [1, -1, 1, 2], "c": [None] * 4}
    sampler, asked = sampler_of(rewards, solution_prefix=0.5)
    step = draw(sampler, asked, "a", "b", "c")
    assert asked == ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["a<think>a"] * 4, "c was not tried: its tools failed"
    assert {one.fate.left_out for one in step.all[:4]} == {"unsolved"} and not any(d.trained for d in step.all[:4])
    again = step.used[:4]
    assert again == step.all[12:] and all(one.trained and one.prompt == "a" for one in again)
    assert {one.fate.given for one in again} == {len("<think>a")} and step.all[0].fate.given == 0
    assert all(one.scored.rollout.text.startswith("<think>a") for one in again), "it is judged as a whole"
    assert len({(one.fate.group, one.fate.sample) for one in step.all}) == 16


def test_a_question_without_a_recorded_solution_stays_as_it_is():
    sampler, asked = sampler_of({"no solution": [-1, -2, -1, -3]}, solution_prefix=0.5, prompt_weighting="accuracy")
    assert draw(sampler, asked, "no solution").used[0].fate.left_out is None and len(asked) == 4


def test_the_prefix_ends_after_a_word_and_never_is_the_whole_solution():
    solution = " In May she sold 24.  In all 72. "
    assert opening_of(solution, 0.5) == "<think>In May she sold"
    assert opening_of(solution, 0.99) == "<think>In May she sold 24.  In all"
    assert opening_of("", 0.5) == opening_of("72", 0.5) == opening_of("a </think> b", 0.5) == ""


# ---------------------------------------------------------------- hot oversampling
def test_the_picks_have_the_largest_variance_there_is():
    for rewards in ([0.0, 1, 1, 1, 1, 1, 4, 4], [3.0, -2, 3, 4, 2, 2.5], [1.0] * 6, [0.0, 0, 0, 0, 0, 1]):
        best = max(statistics.pvariance(chosen) for chosen in combinations(rewards, 4))
        picks = pick_varied(rewards, 4)
        assert statistics.pvariance([rewards[i] for i in picks]) == pytest.approx(best)
        assert picks == sorted(set(picks)) and len(picks) == 4


def test_failed_rollouts_are_picked_only_where_others_are_lacking():
    assert pick_varied([None, 1.0, None, 2.0, 3.0, 4.0], 4) == [1, 3, 4, 5]
    assert pick_varied([None, 1.0, None, 2.0, None, 4.0], 4) == [0, 1, 3, 5]


def test_an_oversampled_group_trains_on_its_picks_and_keeps_the_rest():
    sampler, asked = sampler_of({"a": [1, 1, 1, 1, 4, 1, 1, None]}, hot=HotSampling(factor=2))
    step = draw(sampler, asked, "a")
    assert len(step.all) == len(asked) == 8 and len(step.used) == 4
    assert sorted(one.scored.reward for one in step.used) == [1, 1, 1, 4]
    expected = group_advantages([one.scored.reward for one in step.used], 4)
    assert [one.fate.advantage for one in step.used] == expected
    rest = [one for one in step.all if one not in step.used]
    assert {(one.fate.left_out, one.fate.advantage) for one in rest} == {("not_picked", None)}


# ---------------------------------------------------------------- prompt weights
def test_a_questions_weight_is_largest_where_half_of_its_rollouts_are_right():
    assert prompt_weight(["right", "wrong"]) == 0.5
    assert prompt_weight(["right", "wrong", "unreadable", "wrong", None]) == pytest.approx(math.sqrt(0.25 * 0.75))
    assert prompt_weight(["right"] * 4) == prompt_weight(["wrong"] * 4) == prompt_weight([None]) == 0.0


def test_the_weight_scales_the_advantages():
    rewards = [1.0, 1.0, 1.0, -2.0]
    sampler, asked = sampler_of({"a": rewards}, prompt_weighting="accuracy")
    used = draw(sampler, asked, "a").used
    weight = math.sqrt(0.75 * 0.25)
    assert [one.weight for one in used] == pytest.approx([weight] * 4)
    assert [one.fate.advantage for one in used] == pytest.approx([weight * a for a in group_advantages(rewards, 4)])


# ---------------------------------------------------------------- conditional intermediate rewards
@pytest.mark.parametrize(
    ("rule", "verdicts_that_count"),
    [("always", {"right", "wrong", "unreadable"}), ("if_right", {"right"}), ("if_wrong", {"wrong"})],
)
def test_intermediate_parts_count_only_where_the_rule_says(rule, verdicts_that_count):
    for verdict in ("right", "wrong", "unreadable"):
        value = 1.0 if verdict in verdicts_that_count else 0.0
        assert conditional(PARTS, verdict, rule) == {"accuracy": 2.0, "format": value, "length": value}


def test_a_verdict_needs_an_answer():
    assert [verdict_of(answer, "72", (), "number") for answer in ("72.0", "71", "", None)] == [
        "right", "wrong", "unreadable", "unreadable",
    ]  # fmt: skip


# ---------------------------------------------------------------- configuration
def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="sync_steps 10 has nothing to sync: with beta 0 .* set beta above 0"):
        config_of(reference=ReferenceSettings(sync_steps=10))
    with pytest.raises(ValidationError, match="min_group 5 is above group_size 4: .* lower it"):
        config_of(min_group=5)
    assert config_of(reference=ReferenceSettings(sync_steps=10), beta=0.1).reference.mix == 0.6


@pytest.mark.parametrize("given", [{"calls": "end"}, GenerationConfig(calls="end"), SamplingConfig(calls="end")])
def test_a_generation_given_in_part_still_samples(given):
    sampling = config_of(generation=given).sampling
    assert (sampling.temperature, sampling.calls) == (1.0, "end")
    assert config_of(generation=GenerationConfig(temperature=0.7)).sampling.temperature == 0.7
    assert identity(config_of(generation=SamplingConfig())) == identity(config_of())


@pytest.mark.parametrize("given", [{"temperature": 0}, {"temperature": -1.0}, GenerationConfig(temperature=0.0)])
def test_a_temperature_at_which_all_samples_are_the_same_is_refused(given):
    with pytest.raises(ValidationError, match="is greedy: all samples of a question would be the same.* set it above"):
        config_of(generation=given)


def test_hot_sampling_sets_the_temperature_only_where_it_is_on():
    assert config_of().sampling == config_of().generation
    hot = config_of(hot=HotSampling(factor=2), dynamic_sampling=1)
    assert (hot.sampling.temperature, hot.generation.temperature, hot.draws) == (1.2, 1.0, 4)
