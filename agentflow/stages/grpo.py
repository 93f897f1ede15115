"""grpo: QUESTIONS + cold_start -> LoRA adapter + rollouts.

Group-relative policy optimisation with real tools (METHODS B).

A_i = (r_i - mean) / std over the samples of one question; clipped ratio; beta 0. Reward: paper B's composite
(rewards.composite).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agentflow.clients.search import SearchConfig
from agentflow.config import Frozen, Where
from agentflow.errors import InputError
from agentflow.models.settings import GenerationConfig, VllmSettings
from agentflow.rendering import PromptConfig
from agentflow.rewards.composite import RewardConfig
from agentflow.rewards.conditional import IntermediateRule
from agentflow.toolset import ToolsConfig
from agentflow.training.config import OptimiserSettings
from agentflow.training.guard import GuardConfig
from agentflow.training.policy_options import CycleSettings, HotSampling, PromptWeighting, ReferenceSettings


class GrpoConfig(Frozen):
    """Prompts, sampling, reward and optimisation."""

    prompt: PromptConfig = PromptConfig()
    tools: ToolsConfig = ToolsConfig()
    search: SearchConfig = SearchConfig()
    generation: GenerationConfig = GenerationConfig(temperature=1.0)
    reward: RewardConfig = RewardConfig()
    kinds: tuple[str, ...] = ()
    # Question kinds to train on, e.g. ("arithmetic",); empty is all.
    steps: int = Field(300, ge=1)
    group_size: int = Field(8, ge=2)
    # Samples per question (paper B [P]).
    beta: float = Field(0.0, ge=0)
    # Weight of the KL term to the cold-start policy (paper B [P]).
    clip: float = Field(0.2, gt=0)
    # Clip range of the probability ratio (paper B [P]).
    clip_high: float | None = Field(None, gt=0)
    # Upper clip range of its own (decoupled clip, DAPO: 0.28 to 0.4 [O]); None is `clip` on both sides.
    loss_type: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = "grpo"
    # grpo: mean over each completion's tokens, then over completions; dapo and bnpo: over all tokens [O].
    scale_rewards: Literal["group", "batch", "none"] = "group"
    # What the centred reward is divided by: the group's std (paper B [P]), the batch's, or nothing (Dr. GRPO [O]).
    entropy_bonus: float = Field(0.0, ge=0)
    # Weight of the mean token entropy in the objective [O].
    entropy_quantile: float = Field(1.0, gt=0, le=1)
    # Share of the tokens, most uncertain first, that carry loss; 1 is all [O].
    mask_truncated: bool = False
    # Completions cut off by max_new_tokens carry no loss (DAPO [O]).
    min_group: int = Field(2, ge=2)
    # A group with fewer rollouts left (tools failed) is skipped: it carries no loss at all, and is counted [O].
    intermediate_rewards: IntermediateRule = "always"
    # When the parts besides accuracy count: always, if_right or if_wrong, by the answer (rewards.conditional [O]).
    dynamic_sampling: int = Field(0, ge=0, le=16)
    # Times that other questions are drawn in place of groups whose rewards are all equal, which teach nothing (DAPO
    # [O]); groups that are equal still carry no loss. 0 is off. Each time costs rollouts and their paid calls.
    solution_prefix: float = Field(0.0, ge=0, lt=1)
    # A question that no rollout solved is drawn again with this share of its recorded solution's words (`rationale`)
    # given as the beginning of the reasoning; what is given carries no loss [O]. 0 is off.
    hot: HotSampling = HotSampling()
    # Oversampling at a higher temperature.
    prompt_weighting: PromptWeighting = "none"
    # accuracy: advantages times sqrt(a (1 - a)), a the share of right answers among the question's rollouts [O].
    reference: ReferenceSettings = ReferenceSettings()
    # Whether the KL term's reference follows the policy.
    cycles: CycleSettings = CycleSettings()
    # Fine-tuning between phases of GRPO.
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-5, batch_size=1, accumulation=16)
    # batch_size * accumulation * workers samples a step.
    guard: GuardConfig = GuardConfig()
    # What counts as a collapsed policy, and what happens then.
    edition: str = "1"
    # Of the searches made in rollouts.
    engine: Literal["builtin", "vllm"] = "builtin"
    # What samples the rollouts: our engine on the policy itself, or vLLM (GPUs only), a turn at a time, tools between.
    vllm: VllmSettings = VllmSettings()
    gradient_checkpointing: Annotated[bool, Where()] = False
    # Trades speed for memory while the policy is optimised; the result is the same.
    checkpoint_steps: Annotated[int, Where()] = Field(5, ge=1)
    # Optimiser steps between two checkpoints: what a kill costs at most. Never changes the result.

    @model_validator(mode="after")
    def _whole_groups(self) -> GrpoConfig:
        samples = self.optimiser.batch_size * self.optimiser.accumulation
        if samples % self.group_size:
            raise ValueError(
                f"batch_size * accumulation = {samples} is not a multiple of group_size = {self.group_size}; "
                "a step must hold whole groups"
            )
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> GrpoConfig:
        if self.min_group > self.group_size:
            raise ValueError(
                f"min_group {self.min_group} is above group_size {self.group_size}: every group would be skipped; "
                "lower it"
            )
        if self.reference.sync_steps is not None and self.beta == 0:
            raise ValueError(
                f"reference.sync_steps {self.reference.sync_steps} has nothing to sync: with beta 0 there is no KL "
                "term and no reference; set beta above 0 or leave sync_steps out"
            )
        return self

    @model_validator(mode="after")
    def _a_step_for_each_phase(self) -> GrpoConfig:
        if self.steps <= self.cycles.n:
            raise ValueError(
                f"cycles.n {self.cycles.n} makes {self.cycles.n + 1} phases of {self.steps} steps; raise steps or "
                "lower cycles.n"
            )
        return self

    @property
    def draws(self) -> int:
        """How many rollouts may at most be sampled for each that is trained on."""
        return self.hot.factor * (1 + self.dynamic_sampling + (self.solution_prefix > 0))

    @property
    def sampling(self) -> GenerationConfig:
        """How rollouts are sampled: `generation`, at the hot temperature where that is on."""
        if self.hot.factor == 1:
            return self.generation
        return self.generation.model_copy(update={"temperature": self.hot.temperature})


def eligible(rows: Sequence[dict[str, Any]], config: GrpoConfig) -> list[dict[str, Any]]:
    """The questions that a run may train on: of split "train" and of a wanted kind."""
    return [row for row in rows if row["split"] == "train" and (not config.kinds or row["kind"] in config.kinds)]


def choose_prompts(rows: Sequence[dict[str, Any]], config: GrpoConfig, workers: int) -> list[dict[str, Any]]:
    """The training questions of a run, in the order they are used.

    Shuffled by a hash of seed and id, repeated if too few. Raises InputError if none is of the wanted kinds.
    """
    wanted = eligible(rows, config)
    if not wanted:
        raise InputError(
            f"no training question of kinds {config.kinds or 'any'}; available: {sorted({r['kind'] for r in rows})}"
        )
    ordered = sorted(
        wanted, key=lambda row: hashlib.sha256(f"{config.optimiser.seed}:{row['id']}".encode()).hexdigest()
    )
    per_step = config.optimiser.batch_size * config.optimiser.accumulation * workers // config.group_size
    needed = per_step * config.steps
    return [ordered[i % len(ordered)] for i in range(needed)]
