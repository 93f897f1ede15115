"""grpo: QUESTIONS + cold_start -> LoRA adapter + rollouts.

Group-relative policy optimisation with real tools (METHODS B).

A_i = (r_i - mean) / std over the samples of one question; clipped ratio; beta 0. The reward is chosen by `kind`
(rewards.choice); paper B's composite is the default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from agentflow.clients.search import SearchConfig
from agentflow.config import Frozen, Where
from agentflow.errors import InputError
from agentflow.models.settings import GenerationConfig, SamplingConfig, VllmSettings
from agentflow.models.sources import HubModel, LocalModel
from agentflow.rendering import PromptConfig
from agentflow.rewards.choice import RewardChoice
from agentflow.rewards.composite import CompositeConfig
from agentflow.rewards.conditional import IntermediateRule
from agentflow.rewards.contract import gold_of
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.training.config import OptimiserSettings
from agentflow.training.guard import GuardConfig
from agentflow.training.policy_options import CycleSettings, HotSampling, PromptWeighting, ReferenceSettings


class GraderConfig(Frozen):
    """The process that computes rewards, which may be killed. All values [O]."""

    timeout_s: Annotated[float, Where()] = Field(5.0, gt=0)
    # Seconds for one completion; behind them its grading has failed, and so has that rollout.
    max_failure_rate: float = Field(0.01, ge=0, le=1)
    # Of the rollouts to be graded; above it the stage stops.


class ToolFailureLimit(Frozen):
    """When tools that fail end the stage. It says nothing about the result: only whether there is one. All [O]."""

    max_failed_share: Annotated[float, Where()] = Field(0.5, ge=0, le=1)
    # Of a step's rollouts, over all workers; 1 never ends it.
    steps: Annotated[int, Where()] = Field(3, ge=1)
    # So many steps running with a larger share end the stage (all of them, where it has fewer).


class GrpoConfig(Frozen):
    """Prompts, sampling, reward and optimisation."""

    prompt: PromptConfig = PromptConfig()
    tools: ToolsConfig = ToolsConfig()
    search: SearchConfig = SearchConfig()
    generation: SamplingConfig = SamplingConfig()
    reward: RewardChoice = CompositeConfig()
    # composite (paper B), toolrl, binary (Tool-N1) or mtr; each has its own weights.
    similarity_model: Annotated[LocalModel | HubModel, Field(discriminator="kind")] | None = None
    # Says how close an answer is, for the composite's answer_similarity cross_encoder or bi_encoder.
    grader: GraderConfig = GraderConfig()
    tool_failures: ToolFailureLimit = ToolFailureLimit()
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

    @field_validator("generation", mode="before")
    @classmethod
    def _sampled_where_not_said(cls, value: Any) -> Any:
        """A generation made for answering counts by what was really given: its own temperature would be greedy."""
        return value.model_dump(exclude_unset=True) if isinstance(value, GenerationConfig) else value

    @field_validator("reward", mode="before")
    @classmethod
    def _composite_unless_named(cls, value: Any) -> Any:
        return {"kind": "composite", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _reward_has_what_it_needs(self) -> GrpoConfig:
        named = self.reward.model_similarity if isinstance(self.reward, CompositeConfig) else None
        if named is not None and self.similarity_model is None:
            raise ValueError(
                f"reward.answer_similarity {named!r} needs a model; set similarity_model to {{kind: path, path: "
                "<folder>} or {kind: hub, id: BAAI/bge-reranker-v2-m3, revision: <commit>}, or choose by_type, "
                "numeric_em, token_f1 or em"
            )
        if named is None and self.similarity_model is not None:
            raise ValueError(
                "similarity_model is set and no reward asks it; leave it out, or set reward.answer_similarity of the "
                "composite to cross_encoder or bi_encoder"
            )
        if self.engine == "vllm" and self.generation.single_turn:
            raise ValueError(
                f"engine 'vllm' runs every call, and generation.calls is {self.generation.calls!r}; set engine to "
                "builtin for single turns, or generation.calls to execute"
            )
        if self.reward.kind == "mtr" and self.generation.calls != "execute":
            raise ValueError(
                f"reward 'mtr' judges traces with observations, and generation.calls {self.generation.calls!r} runs no "
                "call; set it to execute, or choose the reward composite, toolrl or binary"
            )
        return self

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

    Shuffled by a hash of seed and id, repeated if too few. Raises InputError if none is of the wanted kinds, or if what
    they ask for does not fit the reward.
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
    chosen = [ordered[i % len(ordered)] for i in range(needed)]
    _check_gold(wanted, config)
    return chosen


def _check_gold(rows: Sequence[dict[str, Any]], config: GrpoConfig) -> None:
    """Raise InputError if a question asks for something that the reward or the syntax cannot express."""
    wanted = {row["id"]: gold_of(row).calls for row in rows}
    kind, syntax = config.reward.kind, syntax_for(config.prompt.syntax)
    if kind in ("toolrl", "binary") and not any(wanted.values()):
        raise InputError(
            f"reward {kind!r} compares calls with gold calls, and none of the {len(rows)} questions carries any; give "
            "questions with gold_calls in their meta (source toolrl has them), or choose the reward composite or mtr"
        )
    for row_id, calls in wanted.items():
        if calls and kind == "mtr":
            raise InputError(
                f"question {row_id!r} asks for calls, and reward 'mtr' judges answers; choose composite, toolrl or "
                "binary"
            )
        if calls and kind == "composite" and config.generation.calls == "execute":
            raise InputError(
                f"question {row_id!r} asks for calls as the whole turn, and generation.calls is 'execute'; set it to "
                "end (one call) or collect (several), or choose the reward toolrl or binary"
            )
        for call in calls:
            if not syntax.representable(call):
                raise InputError(
                    f"question {row_id!r}: its gold call {call.tool!r} {call.arguments!r} cannot be written in syntax "
                    f"{syntax.name!r}; set prompt.syntax to json, or leave the question out"[:500]
                )
