"""What a recipe is: everything that decides what a run makes, in one frozen object."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from agentflow.clients.search import SearchConfig
from agentflow.clients.teacher import TeacherConfig
from agentflow.config import Frozen
from agentflow.models.settings import GenerationConfig
from agentflow.promotion.config import PromotionConfig
from agentflow.rendering import PromptConfig
from agentflow.scrubbing import ScrubConfig
from agentflow.stages.base_model import BaseModelConfig
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.stages.evaluate import EvaluateConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.stages.loss_filter import LossFilterConfig
from agentflow.stages.questions import QuestionsConfig
from agentflow.stages.sft import SftConfig
from agentflow.stages.tool_insertion import ToolInsertionConfig
from agentflow.stages.traces import TracesConfig
from agentflow.toolset import ToolsConfig

STAGE_SECTIONS = ("traces", "tool_insertion", "loss_filter", "sft", "cold_start", "grpo")
SHARED = ("prompt", "teacher", "search", "tools", "edition", "search_edition", "scrub")
# Sections that several stages use. They stand once, at the top of the recipe; a stage's own copy may not be set.


class Recipe(Frozen):
    """Everything that decides what a run makes. Nothing here says where it runs."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    prompt: PromptConfig = PromptConfig()
    teacher: TeacherConfig = TeacherConfig()
    search: SearchConfig = SearchConfig()
    tools: ToolsConfig = ToolsConfig()
    edition: str = "1"
    scrub: ScrubConfig = ScrubConfig()
    # Personal data removed from traces and search results before they are committed. Off by default.
    search_edition: str | None = None
    # Of all searches, where they are to be asked anew and the teacher is not; empty: `edition`.
    upto: Literal["data", "training", "evaluation"] = "evaluation"
    # The last part that is made: "data" ends with the loss filter.
    trained_upto: Literal["sft", "cold_start", "grpo"] = "grpo"
    # The last training that is made (paper A ends with "sft").
    base_model: BaseModelConfig
    questions: QuestionsConfig
    traces: TracesConfig = TracesConfig()
    tool_insertion: ToolInsertionConfig = ToolInsertionConfig()
    loss_filter: LossFilterConfig = LossFilterConfig()
    sft: SftConfig = SftConfig()
    cold_start: ColdStartConfig = ColdStartConfig()
    grpo: GrpoConfig = GrpoConfig()
    evaluate: tuple[EvaluateConfig, ...] = (
        EvaluateConfig(model="base", style="plain"),
        EvaluateConfig(model="base", style="tools"),
        EvaluateConfig(model="sft"),
        EvaluateConfig(model="cold_start"),
        EvaluateConfig(model="grpo"),
    )
    budget_per: Literal["recipe", "edition", "run"] = "recipe"
    # Whose payments a budget counts: of all runs of this recipe's name, of those in these editions, or of one deployed
    # run with its retries. It makes nothing, so it is in no fingerprint.
    promotion: PromotionConfig = PromotionConfig()
    # The gate a night has to pass. It makes nothing, so it is in no fingerprint.
    notes: tuple[str, ...] = ()
    # What a reader of the report must know.

    @model_validator(mode="after")
    def _shared_sections_stand_once(self) -> Recipe:
        sections = {name: getattr(self, name) for name in STAGE_SECTIONS}
        sections |= {f"evaluate.{i}": config for i, config in enumerate(self.evaluate)}
        for name, section in sections.items():
            doubled = [field for field in SHARED if field in section.model_fields_set]
            if doubled:
                raise ValueError(
                    f"{name}.{doubled[0]} is shared by several stages: "
                    f"set {doubled[0]} at the top of the recipe instead"
                )
        return self

    @model_validator(mode="after")
    def _evaluates_what_is_trained(self) -> Recipe:
        order = ("base", "sft", "cold_start", "grpo")
        made = order[: order.index(self.trained_upto) + 1]
        for i, config in enumerate(self.evaluate):
            if config.model not in made:
                raise ValueError(
                    f"evaluate.{i} asks {config.model!r}, which is not made with trained_upto {self.trained_upto!r}; "
                    f"there will be {', '.join(made)}"
                )
        return self

    def stage(self, name: str) -> Any:
        """The full configuration of a stage, with the shared sections filled in."""
        return self.fill(getattr(self, name))

    def fill(self, config: Any) -> Any:
        """`config` with this recipe's shared sections where it has such fields."""
        fields = type(config).model_fields
        shared = {field: getattr(self, field) for field in SHARED if field in fields}
        if "edition" in fields and "teacher" not in fields:  # the calls of grpo and evaluate are searches alone
            shared["edition"] = self.search_edition or self.edition
        return config.model_copy(update=shared)


def evaluations(generation: GenerationConfig) -> tuple[EvaluateConfig, ...]:
    """A recipe's default evaluations with these limits."""
    configs = Recipe.model_fields["evaluate"].default
    return tuple(config.model_copy(update={"generation": generation}) for config in configs)
