"""What a person may choose when they start a deployment: the models behind the forms in Prefect's UI.

In: a form, a schedule's parameters in `deployments/prefect.yaml`, or `prefect deployment run --params`. Out: a
validated model and the recipe it asks for. Nothing here says where a run happens (that is the worker's environment),
and no field takes a key: `secrets` names Prefect Secret blocks.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flows.recipes import RECIPES, Recipe, load_recipe, with_settings

Regenerate = Literal["none", "search", "teacher", "all"]
Setting = Annotated[str, Field(pattern=r"^[a-z0-9_.]+=", examples=["sft.settings.max_steps=60"])]
Block = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class RunParameters(BaseModel):
    """What every deployment lets you choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(
        "demo", title="Recipe", description="The recipe to run.", json_schema_extra={"enum": [*sorted(RECIPES)]}
    )
    settings: tuple[Setting, ...] = Field(
        (),
        title="Changed fields",
        description="One change of the recipe per line, as for --set: path.to.field=value (docs/recipes.md).",
    )
    edition: str = Field(
        "",
        title="Edition",
        description="Edition of the paid answers to use; what it stored is not asked again. Empty: the recipe's own.",
        max_length=60,
    )
    search_edition: str = Field(
        "", title="Edition of searches", description="Where searches have another. Empty: the same.", max_length=60
    )
    budget_usd: float | None = Field(
        None,
        ge=0,
        title="Budget, USD",
        description="Stop before this recipe's runs that were given a budget could cost more than this, all together. "
        "With the changed field budget_per=run it is for this run and its retries alone, with budget_per=edition for "
        "all runs in the same editions.",
    )
    secrets: dict[Variable, Block] = Field(
        {},
        title="Secrets",
        description='Environment variable to name of the Prefect Secret block with its value, e.g. {"TAVILY_API_KEY": '
        '"tavily"}. Empty: the keys stand in the worker\'s environment. Never enter a key itself.',
    )

    @field_validator("recipe")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in RECIPES:
            raise ValueError(f"unknown recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
        return name

    def chosen(self) -> Recipe:
        """The recipe these parameters ask for. Raises ConfigError for a setting that does not fit."""
        recipe = load_recipe(self.recipe, self.settings)
        changes: dict[str, Any] = {"edition": self.edition, "search_edition": self.search_edition}
        return with_settings(recipe, {name: value for name, value in changes.items() if value})


class NightlyParameters(RunParameters):
    """What a night makes anew."""

    regenerate: Regenerate = Field(
        "none",
        title="Regenerate",
        description="Which paid calls are made anew, in an edition named after the scheduled date: none (what is "
        "stored is used, only what is missing is asked), search, teacher, or all. The others keep the edition above.",
    )
    night: date | None = Field(
        None,
        title="Night",
        description="The date to make. Empty: the date for which this run was scheduled, in the schedule's time zone. "
        "A retry keeps its date.",
    )

    def for_night(self, night: str) -> Recipe:
        """The recipe with the editions of `night` (an ISO date) where `regenerate` asks for it."""
        recipe = self.chosen()
        searched = recipe.search_edition or recipe.edition
        editions: dict[Regenerate, dict[str, str]] = {
            "none": {},
            "search": {"search_edition": night},
            "teacher": {"edition": night, "search_edition": searched},
            "all": {"edition": night, "search_edition": night},
        }
        return with_settings(recipe, editions[self.regenerate])
