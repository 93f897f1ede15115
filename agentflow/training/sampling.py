"""Which rollouts of a step are trained on: groups drawn, judged, drawn again and weighted. No torch, no TRL.

In: the step's questions (each once per sample, as TRL passes them) and a function that generates. Out: every rollout
with its place and fate, and for each of TRL's places the rollout that fills it.

A group left with fewer than `min_group` rollouts (tools failed) is skipped. Options: hot oversampling picks the samples
whose rewards differ most; a question that no rollout solved is drawn again with the beginning of its solution; dynamic
sampling draws other questions in place of groups whose rewards are all equal; prompt weighting scales a group's
advantages; a completion that was cut off may carry no loss. Everything depends on seed, step and worker alone, so a
resumed training draws the same.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentflow.records import Rollout
from agentflow.rewards.conditional import Verdict
from agentflow.rewards.groups import EPSILON, Scale, group_advantages, spread
from agentflow.stages.grpo import GrpoConfig
from agentflow.syntax import holds_markup

LeftOut = Literal["few_left", "unsolved", "equal_rewards", "not_picked", "truncated"]
Generate = Callable[[list[str], list[int]], list[Rollout]]
# Prompts and one seed each to rollouts, in order.


@dataclass(frozen=True)
class Scored:
    """A rollout and what it is worth."""

    rollout: Rollout
    parts: dict[str, float] | None
    # None where a tool failed.
    reward: float | None
    verdict: Verdict | None
    # Of the final answer; None where a tool failed.
    answer: str | None = None
    # The answer that was read; None where there is none.


@dataclass(frozen=True)
class Fate:
    """One rollout's place among all of a step, and what became of it."""

    group: int
    # Unique in its step over all workers and draws.
    sample: int
    left_out: LeftOut | None = None
    # Why it carries no loss; None where it does, or where its own tool failed.
    advantage: float | None = None
    # As the trainer has it, its question's weight included; None where it carries no loss.
    given: int = 0
    # Characters of its text that stood in the prompt: the beginning of the solution.


@dataclass(frozen=True)
class Drawn:
    """A rollout of a step."""

    prompt: str
    scored: Scored
    fate: Fate
    weight: float = 1.0
    # Of its question; TRL's advantage is multiplied by it.

    @property
    def trained(self) -> bool:
        """Whether it carries loss."""
        return self.fate.left_out is None and self.scored.reward is not None

    @property
    def counted(self) -> bool:
        """Whether its reward is one of its group's, and so in its mean; a truncated one's is (as in TRL)."""
        return self.fate.left_out in (None, "truncated") and self.scored.reward is not None


@dataclass(frozen=True)
class Step:
    """All that one worker drew for one optimiser step."""

    all: list[Drawn]
    # Every rollout, whatever became of it.
    used: list[Drawn]
    # One for each place that the trainer has, group by group [len(prompts)].


@dataclass(frozen=True)
class _Wanted:
    """A group to draw: for which place, of which question, and how its completions begin."""

    place: int
    prompt: str
    opening: str = ""


@dataclass
class GroupSampler:
    """Draws a step's groups for one worker."""

    config: GrpoConfig
    score: Callable[[Sequence[str], Sequence[Rollout]], list[Scored]]
    # Prompts and their rollouts to what those are worth, in order.
    spare: Callable[[int, int], Sequence[str]]
    # Step and rank to prompts that may replace a step's own, in order.
    opening: Callable[[str], str] = lambda prompt: ""
    # Prompt to the beginning of its solution, as the model would have to write it; "" if none is known.
    workers: int = 1
    gather: Callable[[list[float]], list[float]] = list
    # A list of this worker to those of all workers, one behind the other.

    def draw(
        self, prompts: Sequence[str], step: int, rank: int, generate: Generate, ends: Collection[int] = ()
    ) -> Step:
        """Groups for `prompts`, which stand there once per sample of a group, whole groups only.

        `ends`: tokens with which a completion is whole, for `mask_truncated`.
        """
        config = self.config
        places = [prompts[i] for i in range(0, len(prompts), config.group_size)]
        groups: list[list[Drawn]] = []
        at: dict[int, int] = {}
        # Place to the number of the group that fills it.

        def fill(wanted: Sequence[_Wanted], attempt: int) -> None:
            number = (attempt * self.workers + rank) * len(places)
            for want, group in zip(wanted, self._groups(wanted, number, attempt, step, rank, generate), strict=True):
                at[want.place] = len(groups)
                groups.append(group)

        fill([_Wanted(place, prompt) for place, prompt in enumerate(places)], 0)
        helped = self._helped([groups[at[place]] for place in range(len(places))])
        for want in helped:
            groups[at[want.place]] = [
                replace(drawn, fate=replace(drawn.fate, left_out="unsolved", advantage=None))
                for drawn in groups[at[want.place]]
            ]
        fill(helped, 1)
        unused = iter([prompt for prompt in self._spare(step, rank) if prompt not in places])
        first = 1 + (config.solution_prefix > 0)
        for attempt in range(first, first + config.dynamic_sampling):
            poor = [place for place in sorted(at) if all(one.fate.left_out for one in groups[at[place]])]
            # Where the questions run out, poor groups stay.
            fill([_Wanted(place, prompt) for place, prompt in zip(poor, unused, strict=False)], attempt)
        scale = self._batch_scale([groups[i] for i in at.values()])
        settled = [[self._settled(drawn, scale, ends) for drawn in group] for group in groups]
        used = [drawn for place in sorted(at) for drawn in _picked(settled[at[place]], config.group_size)]
        return Step([drawn for group in settled for drawn in group], used)

    def _batch_scale(self, filling: Sequence[Sequence[Drawn]]) -> float:
        """What all advantages of the step are still to be divided by; `filling`: the groups that fill places."""
        if self.config.scale_rewards != "batch":
            return 1.0
        mine = [
            one.scored.reward for group in filling for one in group if one.counted and one.scored.reward is not None
        ]
        return spread(self.gather(mine)) + EPSILON

    def _settled(self, drawn: Drawn, scale: float, ends: Collection[int]) -> Drawn:
        """`drawn` with the advantage it is trained with."""
        if drawn.fate.advantage is None:
            return drawn
        if self.config.mask_truncated and drawn.scored.rollout.completion_ids[-1] not in ends:
            return replace(drawn, fate=replace(drawn.fate, left_out="truncated", advantage=None))
        return replace(drawn, fate=replace(drawn.fate, advantage=drawn.fate.advantage / scale))

    def _spare(self, step: int, rank: int) -> Sequence[str]:
        return self.spare(step, rank) if self.config.dynamic_sampling else ()

    def _helped(self, groups: Sequence[Sequence[Drawn]]) -> list[_Wanted]:
        """The places whose question was tried, solved by no rollout, and has a solution to begin with."""
        if self.config.solution_prefix == 0:
            return []
        helped = []
        for place, group in enumerate(groups):
            verdicts = {drawn.scored.verdict for drawn in group} - {None}
            if verdicts and "right" not in verdicts and (opening := self.opening(group[0].prompt)):
                helped.append(_Wanted(place, group[0].prompt, opening))
        return helped

    def _groups(
        self, wanted: Sequence[_Wanted], first: int, attempt: int, step: int, rank: int, generate: Generate
    ) -> list[list[Drawn]]:
        """A group for each of `wanted`, numbered from `first` by place."""
        if not wanted:
            return []
        width = self.config.group_size * self.config.hot.factor
        numbers = [want.place * width + sample for want in wanted for sample in range(width)]
        seeds = [row_seed(self.config.optimiser.seed, step, rank, number, attempt) for number in numbers]
        each = [want for want in wanted for _ in range(width)]
        rollouts = generate([want.prompt + want.opening for want in each], seeds)
        whole = [_opened(one, want.opening) for want, one in zip(each, rollouts, strict=True)]
        scored = self.score([want.prompt for want in each], whole)
        groups = []
        for i, want in enumerate(wanted):
            common = Fate(first + want.place, 0, given=len(want.opening))
            groups.append(self._judged(want.prompt, scored[i * width : (i + 1) * width], common))
        return groups

    def _judged(self, prompt: str, scored: Sequence[Scored], common: Fate) -> list[Drawn]:
        """One group's samples with their fates, which have `common`'s group and prefix."""
        config = self.config
        rewards = [sample.reward for sample in scored]
        picks = pick_varied(rewards, config.group_size)
        kept = [rewards[i] for i in picks]
        known = [reward for reward in kept if reward is not None]
        why: LeftOut | None = None
        if len(known) < config.min_group:
            why = "few_left"
        elif config.dynamic_sampling and len(set(known)) == 1:
            why = "equal_rewards"
        weight = prompt_weight([sample.verdict for sample in scored]) if config.prompt_weighting != "none" else 1.0
        scale: Scale = "group" if config.scale_rewards == "group" else "none"
        advantages = dict(zip(picks, group_advantages(kept, len(kept), scale), strict=True))
        drawn = []
        for i, sample in enumerate(scored):
            fate = replace(common, sample=i)
            if i not in advantages:
                fate = replace(fate, left_out=why or "not_picked")
            elif why is not None:
                fate = replace(fate, left_out=why)
            elif (advantage := advantages[i]) is not None:
                fate = replace(fate, advantage=weight * advantage)
            drawn.append(Drawn(prompt, sample, fate, weight))
        return drawn


def _opened(rollout: Rollout, opening: str) -> Rollout:
    """`rollout` with what it was given to begin with."""
    moved = tuple((first + len(opening), end + len(opening)) for first, end in rollout.injected)
    return replace(rollout, text=opening + rollout.text, injected=moved)


def plain_fates(rewards: Sequence[float | None], size: int, rank: int) -> list[Fate]:
    """Fates of consecutive whole groups of `size` samples of which none is left out."""
    first, advantages = rank * len(rewards) // size, group_advantages(rewards, size)
    return [Fate(first + i // size, i % size, advantage=advantage) for i, advantage in enumerate(advantages)]


def opening_of(solution: str, share: float) -> str:
    """How a completion begins that copies `share` of the solution's words, up to all but one; "" if it has too few."""
    words = list(re.finditer(r"\S+", solution))
    count = min(math.ceil(share * len(words)), len(words) - 1)
    if count < 1 or holds_markup(solution):
        return ""
    return "<think>" + solution[words[0].start() : words[count - 1].end()]


def _picked(group: Sequence[Drawn], size: int) -> list[Drawn]:
    """The `size` samples of a group that fill the trainer's places; of a group that is left out, any."""
    return [drawn for drawn in group if drawn.fate.left_out != "not_picked"][:size]


def pick_varied(rewards: Sequence[float | None], size: int) -> list[int]:
    """`size` indices, in order, whose rewards have the largest variance (as PODS picks; the rule is ours [O]).

    The best choice is always some of the lowest and some of the highest. Failed rollouts (None) fill up only where too
    few others are left. Equal choices: the one with fewer low rewards.
    """
    known = {i: reward for i, reward in enumerate(rewards) if reward is not None}
    order = sorted(known, key=lambda i: (known[i], i))
    if len(order) <= size:
        failed = [i for i, reward in enumerate(rewards) if reward is None]
        return sorted(order + failed[: size - len(order)])
    choices = [order[:low] + order[len(order) - (size - low) :] for low in range(size)] + [order[:size]]
    return sorted(max(choices, key=lambda chosen: _variance([known[i] for i in chosen])))


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def prompt_weight(verdicts: Sequence[Verdict | None]) -> float:
    """sqrt(alpha * (1 - alpha)), in [0, 0.5]; alpha is the share of right answers among the rollouts that count."""
    known = [verdict for verdict in verdicts if verdict is not None]
    alpha = sum(verdict == "right" for verdict in known) / len(known) if known else 0.0
    return math.sqrt(alpha * (1 - alpha))


def row_seed(seed: int, step: int, rank: int, index: int, attempt: int = 0) -> int:
    """A rollout's own seed; the first draw's does not depend on how often may be drawn."""
    text = f"{seed}:{step}:{rank}:{index}" + (f":{attempt}" if attempt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def spare_order(ids: Sequence[str], seed: int, step: int, rank: int, workers: int) -> list[str]:
    """Ids that `rank` may draw in place of a step's own: another order each step, no id for two workers."""
    ordered = sorted(ids, key=lambda i: hashlib.sha256(f"spare:{seed}:{step}:{i}".encode()).hexdigest())
    return ordered[rank::workers]


def rollout_counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Groups, those with reward variance, failures, and what was left out; for the manifest and the report.

    Calls are counted over all rollouts, since those that are left out were paid too.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["id"].rpartition("-")[0], []).append(row)
    left_out = [row for row in rows if row["left_out"] is not None]
    fates = [{row["left_out"] for row in group} for group in groups.values()]
    return {
        "rollouts": len(rows),
        "groups": len(groups),
        "groups_with_variance": sum(
            len({row["reward"] for row in group if row["reward"] is not None}) > 1 for group in groups.values()
        ),
        "rollouts_failed": sum(row["status"] == "failed" for row in rows),
        "groups_skipped": sum("few_left" in fate for fate in fates),
        "groups_equal": sum("equal_rewards" in fate for fate in fates),
        "groups_unsolved": sum("unsolved" in fate for fate in fates),
        "rollouts_left_out": len(left_out),
        "calls": sum(row["n_calls"] for row in rows),
        "calls_left_out": sum(row["n_calls"] for row in left_out),
    }
