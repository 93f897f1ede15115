"""Collapse guard: watches a policy's training and says when it stops being one that reasons, calls tools and answers.

In: statistics of the optimiser steps whose rollouts are a fair sample. Out: alarms, each with the numbers that raised
it. All rules [O]; none is in the papers, whose curves (format saturates early, accuracy rises, reasoning gets somewhat
shorter) must raise none.

A rule compares the mean of the last `window` steps with the first `window` steps or with the best window so far, and is
silent until both exist apart. So one bad step raises nothing, and neither does a policy that was bad from the start.

    think_tags     exactly one think block has become rare
    calls_stopped  a policy that called tools calls none any more
    calls_at_cap   nearly every rollout calls until it is cut off
    reward_hacking format reward is up while accuracy is down (silent for a reward without a format part)
    entropy        the policy has become deterministic, or random
    length         it writes far less, or far more, than at the start
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field

from agentflow.config import Frozen
from agentflow.rewards.grading import tool_failed

AlarmName = Literal["think_tags", "calls_stopped", "calls_at_cap", "reward_hacking", "entropy", "length"]
PAPER_B_WIDTH = 4.0
# Of the accuracy part of paper B's composite, from -2 to 2: the scale of `accuracy_fall`.


class GuardConfig(Frozen):
    """When a policy counts as collapsed, and what happens then. All values [O]."""

    action: Literal["off", "warn", "stop", "rollback"] = "warn"
    # warn: noted in the log and the manifest. stop: the stage fails and says why. rollback: training ends, and the last
    # weights from before the alarm's window are published.
    window: int = Field(5, ge=1)
    # Optimiser steps that are averaged; nothing is said before two windows have passed.
    think_share: float = Field(0.5, ge=0, le=1)
    # Alarm below this share of the best window's rate of rollouts with exactly one think block.
    calling_before: float = Field(0.2, ge=0, le=1)
    # A policy whose best window had at least this rate of rollouts with a call ...
    calling_after: float = Field(0.02, ge=0, le=1)
    # ... and which now has at most this one has stopped calling.
    at_cap: float = Field(0.9, ge=0, le=1)
    # Alarm at this rate of rollouts that use up max_calls.
    format_rise: float = Field(0.05, ge=0)
    # Reward hacking: the format part is up by this since the start ...
    accuracy_fall: float = Field(0.5, ge=0)
    # ... while the accuracy part, over two windows, is down by this from its best average since the start. On a scale
    # of width 4, which is that of paper B's accuracy part in [-2, 2]; other rewards' ranges are stretched to it.
    entropy_ratio: tuple[float, float] = (0.1, 4.0)
    # Alarm outside these multiples of the entropy at the start.
    length_ratio: tuple[float, float] = (0.4, 2.5)
    # Alarm outside these multiples of the model-written words at the start.
    max_failed_share: float = Field(0.1, ge=0, le=1)
    # A step of whose rollouts more failed is not judged: the rest, which hardly called, is no sample of the policy.


@dataclass(frozen=True)
class StepStats:
    """One optimiser step's rollouts; those that failed count as calling or not, and for nothing else."""

    step: int
    think: float
    # Share with exactly one think block [0, 1].
    calling: float
    # Share with at least one executed call, or one whose tool failed [0, 1].
    at_cap: float
    # Share that used up max_calls [0, 1].
    accuracy: float
    # Mean of the accuracy part.
    format: float | None
    # Mean of the format part; None where the reward has none.
    words: float
    # Mean words of the completion, tool results included.
    entropy: float | None = None
    # Mean nats a sampled token; None where the trainer does not say.


@dataclass(frozen=True)
class Alarm:
    """A rule that was broken."""

    step: int
    name: AlarmName
    detail: str


def step_stats(
    step: int,
    rows: Sequence[dict[str, Any]],
    max_calls: int,
    entropy: float | None,
    accuracy_part: str = "accuracy",
    format_part: str | None = "format",
    max_failed_share: float = 1.0,
) -> StepStats | None:
    """Statistics of one step's ROLLOUTS rows; None if more than the allowed share failed, or all.

    `accuracy_part`, `format_part`: what the reward in use calls them.
    """
    counted = [row for row in rows if row["status"] == "ok"]
    if not counted or len(rows) - len(counted) > max_failed_share * len(rows):
        return None
    in_vain = [True for row in rows if tool_failed(row["failure"])]
    parts = [json.loads(row["rewards"]) for row in counted]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    texts = [row["completion"] for row in counted]
    return StepStats(
        step=step,
        think=mean([text.count("<think>") == 1 == text.count("</think>") for text in texts]),
        calling=mean([row["n_calls"] > 0 for row in counted] + in_vain),
        at_cap=mean([0 < max_calls <= row["n_calls"] for row in counted]),
        accuracy=mean([part[accuracy_part] for part in parts]),
        format=None if format_part is None else mean([part[format_part] for part in parts]),
        words=mean([len(text.split()) for text in texts]),
        entropy=entropy,
    )


class CollapseGuard:
    """Remembers every step's statistics and judges the newest window. Give it the steps in order."""

    def __init__(self, config: GuardConfig, accuracy_width: float = PAPER_B_WIDTH) -> None:
        """`accuracy_width`: highest less lowest value of the accuracy part of the reward in use."""
        self.config = config
        self._fall = config.accuracy_fall * accuracy_width / PAPER_B_WIDTH
        self.steps: list[StepStats] = []
        self.alarms: list[Alarm] = []

    def observe(self, stats: StepStats) -> list[Alarm]:
        """Take in a step; the alarms it raises, each name at most once in a training."""
        self.steps.append(stats)
        if len(self.steps) < 2 * self.config.window:
            return []
        raised = {alarm.name for alarm in self.alarms}
        judged = [(name, detail) for name, detail in self._judge() if name not in raised]
        new = [Alarm(stats.step, name, detail) for name, detail in judged if detail is not None]
        self.alarms += new
        return new

    def window_of(self, alarm: Alarm) -> int:
        """The step with which the window begins that raised `alarm`; steps that were not judged widen it."""
        newest = next(i for i, stats in enumerate(self.steps) if stats.step == alarm.step)
        return self.steps[newest + 1 - self.config.window].step

    def _judge(self) -> list[tuple[AlarmName, str | None]]:
        c = self.config
        think, calling = self._windows(lambda s: s.think), self._windows(lambda s: s.calling)
        at_cap, words = self._windows(lambda s: s.at_cap), self._windows(lambda s: s.words)
        fewer_thoughts = think[-1] < c.think_share * max(think)
        stopped = max(calling) >= c.calling_before and calling[-1] <= c.calling_after
        capped = at_cap[-1] >= c.at_cap > at_cap[0]
        return [
            ("think_tags", f"one think block in {think[-1]:.0%}, was {max(think):.0%}" if fewer_thoughts else None),
            ("calls_stopped", f"calls in {calling[-1]:.0%}, were in {max(calling):.0%}" if stopped else None),
            ("calls_at_cap", f"{at_cap[-1]:.0%} use up their calls, were {at_cap[0]:.0%}" if capped else None),
            ("reward_hacking", self._reward_hacking()),
            ("entropy", self._entropy_drift()),
            ("length", _drift("words", words[0], words[-1], c.length_ratio)),
        ]

    def _reward_hacking(self) -> str | None:
        if any(stats.format is None for stats in self.steps):
            return None
        form, (best, accuracy) = self._windows(lambda s: s.format or 0.0), self._best_and_newest_accuracy()
        if form[-1] < form[0] + self.config.format_rise or accuracy > best - self._fall:
            return None
        return f"format {form[0]:.2f} -> {form[-1]:.2f}, accuracy {best:.2f} -> {accuracy:.2f}"

    def _entropy_drift(self) -> str | None:
        # None where no rollout of a step carried loss; those steps say nothing.
        known = [stats.entropy for stats in self.steps if stats.entropy is not None]
        if len(known) < 2 * self.config.window:
            return None
        entropy = _means(known, self.config.window)
        return _drift("entropy", entropy[0], entropy[-1], self.config.entropy_ratio)

    def _best_and_newest_accuracy(self) -> tuple[float, float]:
        """The best average from the start up to any step, and the newest two windows.

        Averaged longer than the rest: with 16 rollouts a step, the best and worst of many single windows differ by
        more than a collapse would make.
        """
        size, values = 2 * self.config.window, [stats.accuracy for stats in self.steps]
        sums = list(accumulate(values))
        return max(sums[n - 1] / n for n in range(size, len(values) + 1)), sum(values[-size:]) / size

    def _windows(self, value: Callable[[StepStats], float]) -> list[float]:
        """Mean of every window, the first and the newest at the ends; those between overlap."""
        return _means([value(stats) for stats in self.steps], self.config.window)


def _means(values: Sequence[float], size: int) -> list[float]:
    return [sum(values[i : i + size]) / size for i in range(len(values) - size + 1)]


def _drift(name: str, first: float, last: float, ratio: tuple[float, float]) -> str | None:
    if first <= 0 or ratio[0] * first <= last <= ratio[1] * first:
        return None
    return f"{name} {first:.3g} -> {last:.3g}, allowed {ratio[0]:g} to {ratio[1]:g} times the start"
