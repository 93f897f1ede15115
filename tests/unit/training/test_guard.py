"""The collapse guard on series: a scripted reward hacker and every other way to collapse trip it, an honest policy does
not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.training.guard import CollapseGuard, GuardConfig, StepStats, step_stats

GOOD = StepStats(0, think=0.98, calling=0.9, at_cap=0.02, accuracy=1.0, format=0.9, words=40.0, entropy=0.5)


def alarms(series, config=None) -> list[str]:
    guard = CollapseGuard(config or GuardConfig())
    for step, stats in enumerate(series):
        guard.observe(replace(stats, step=step))
    return [alarm.name for alarm in guard.alarms]


def fade(start: StepStats, end: StepStats, steps: int) -> list[StepStats]:
    """From one to the other in equal steps."""
    names = ("think", "calling", "at_cap", "accuracy", "format", "words", "entropy")
    return [
        replace(
            start, **{n: getattr(start, n) + (getattr(end, n) - getattr(start, n)) * i / (steps - 1) for n in names}
        )
        for i in range(steps)
    ]


def noisy(series, samples: int, seed: int) -> list[StepStats]:
    """As it would be measured with `samples` rollouts a step."""
    random = Random(seed)

    def share(p: float) -> float:
        return sum(random.random() < p for _ in range(samples)) / samples

    return [
        replace(
            stats,
            think=share(stats.think),
            calling=share(stats.calling),
            at_cap=share(stats.at_cap),
            format=share(stats.format),
            accuracy=random.gauss(stats.accuracy, 1.0 / samples**0.5),
            words=random.gauss(stats.words, 8.0 / samples**0.5),
            entropy=stats.entropy * random.uniform(0.8, 1.2),
        )
        for stats in series
    ]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.sampled_from([16, 64, 128]))
def test_the_papers_curves_raise_no_alarm(seed, samples):
    """Format saturates within 50 steps, accuracy 1.0 -> 1.4, reasoning 80 -> 60 tokens, entropy falls."""
    early = fade(replace(GOOD, format=0.6), replace(GOOD, format=0.99, accuracy=1.1), 50)
    late = fade(early[-1], replace(early[-1], accuracy=1.4, words=30.0, entropy=0.2), 100)
    assert alarms(noisy(early + late, samples, seed)) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.sampled_from([16, 64, 128]))
def test_a_reward_hacker_trips_it(seed, samples):
    """It learns the tags and a padded think block, and answers anything."""
    hacked = replace(GOOD, format=1.0, accuracy=-0.2)
    series = fade(replace(GOOD, format=0.7), hacked, 40) + [hacked] * 10
    assert "reward_hacking" in alarms(noisy(series, samples, seed))


@pytest.mark.parametrize(
    "end, name",
    [
        (replace(GOOD, think=0.2), "think_tags"),
        (replace(GOOD, calling=0.0), "calls_stopped"),
        (replace(GOOD, at_cap=1.0), "calls_at_cap"),
        (replace(GOOD, format=1.0, accuracy=0.0), "reward_hacking"),
        (replace(GOOD, entropy=0.01), "entropy"),
        (replace(GOOD, entropy=4.0), "entropy"),
        (replace(GOOD, words=5.0), "length"),
        (replace(GOOD, words=200.0), "length"),
    ],
)
def test_every_way_to_collapse_has_its_alarm(end, name):
    assert alarms(fade(GOOD, end, 20) + [end] * 5) == [name], "and raises it once"
    assert alarms([GOOD] * 40) == []
    assert alarms(fade(GOOD, end, 20) + [end] * 5, GuardConfig(window=13)) == [], "two windows have not passed"


def test_the_fall_of_accuracy_is_measured_on_the_range_of_the_reward_in_use():
    end = replace(GOOD, format=1.0, accuracy=0.8)
    series = fade(GOOD, end, 20) + [end] * 10
    assert alarms(series) == [], "0.2 of paper B's [-2, 2] is little"
    narrow = CollapseGuard(GuardConfig(), accuracy_width=1.0)
    for step, stats in enumerate(series):
        narrow.observe(replace(stats, step=step))
    assert [alarm.name for alarm in narrow.alarms] == ["reward_hacking"], "of [0, 1] it is much"


def test_a_reward_without_a_format_part_raises_no_reward_hacking():
    start, end = replace(GOOD, format=None), replace(GOOD, format=None, accuracy=-2.0)
    assert alarms([start] * 10 + [end] * 20) == []
    assert alarms([replace(GOOD, format=0.5)] * 10 + [replace(GOOD, accuracy=-2.0)] * 20) == ["reward_hacking"]


def test_one_bad_step_raises_nothing():
    bad = StepStats(0, think=0.0, calling=0.0, at_cap=1.0, accuracy=-2.0, format=0.0, words=1.0, entropy=0.0)
    assert alarms([GOOD] * 12 + [bad] + [GOOD] * 12) == []


def test_a_policy_that_never_called_has_not_stopped_calling():
    assert alarms([replace(GOOD, calling=0.0)] * 20) == []
    assert alarms([replace(GOOD, entropy=None)] * 20) == []


def row(completion: str, *, status="ok", n_calls=1, accuracy=1.0, form=1.0):
    rewards = json.dumps({"accuracy": accuracy, "format": form, "length": 0.0})
    failure = None if status == "ok" else "connection"
    return {"completion": completion, "status": status, "failure": failure, "n_calls": n_calls, "rewards": rewards}


def test_the_statistics_of_a_step_leave_failed_rollouts_out_but_count_their_calls():
    rows = [
        row("<think>a b</think><answer>1</answer>", n_calls=3),
        row("<think>a <think> b</think>", n_calls=0, accuracy=-2.0, form=0.0),
        row("gone", status="failed"),
    ]
    stats = step_stats(7, rows, max_calls=3, entropy=0.5)
    assert stats == StepStats(
        7, think=0.5, calling=2 / 3, at_cap=0.5, accuracy=-0.5, format=0.5, words=2.5, entropy=0.5
    )
    ungraded = [*rows[:2], {**rows[2], "failure": "grader_timeout"}]
    assert step_stats(7, ungraded, max_calls=3, entropy=0.5).calling == 0.5, "whether that one called is not known"
    named = [{**row("a"), "rewards": json.dumps({"correct": 0.25})}]
    of_binary = step_stats(7, named, 3, None, accuracy_part="correct", format_part=None)
    assert (of_binary.accuracy, of_binary.format) == (0.25, None)
    assert step_stats(7, rows[2:], max_calls=3, entropy=None) is None
    assert step_stats(7, rows[1:2], max_calls=0, entropy=None).at_cap == 0.0, "no calls allowed is no cap reached"


def test_a_step_with_many_failed_rollouts_is_not_judged():
    rows = [row("a", n_calls=0)] * 8 + [row("gone", status="failed")] * 2
    assert step_stats(7, rows, 3, None, max_failed_share=0.1) is None
    assert step_stats(7, rows, 3, None, max_failed_share=0.2).calling == 0.2


def test_a_tool_outage_is_no_policy_that_stopped_calling():
    """Ten steps of calls, then the search is down: what is left of a step never calls, and is short."""
    up = [row("a word " * 20)] * 12 + [row("a", n_calls=0)] * 4
    down = [row("gone", status="failed")] * 12 + up[12:]
    config = GuardConfig()
    guard, judged = CollapseGuard(config), 0
    for step, rows in enumerate([up] * 10 + [down] * 10):
        stats = step_stats(step, rows, 3, 0.5, max_failed_share=config.max_failed_share)
        judged += stats is not None
        if stats is not None:
            guard.observe(stats)
    assert (judged, guard.alarms) == (10, [])


def test_a_step_without_entropy_does_not_silence_its_rule():
    low = replace(GOOD, entropy=0.001)
    assert alarms([GOOD] * 10 + [replace(GOOD, entropy=None)] * 3 + [low] * 10) == ["entropy"]


def test_the_window_of_an_alarm_reaches_over_steps_that_were_not_judged():
    guard = CollapseGuard(GuardConfig(window=2))
    steps = [0, 1, 2, 6, 9]
    for step in steps:
        guard.observe(replace(GOOD, step=step, think=1.0 if step < 6 else 0.0))
    (alarm,) = guard.alarms
    assert (alarm.step, guard.window_of(alarm)) == (9, 6)
