"""The reward of a recipe: old paths set the composite, a kind starts anew, a wrong name is told what is allowed."""

from __future__ import annotations

import pytest

from agentflow.config import identity
from agentflow.errors import ConfigError
from agentflow.rewards.calls import ToolRlConfig
from agentflow.rewards.composite import CompositeConfig
from flows.recipes import load_recipe


def test_the_composite_is_the_default_and_its_fields_are_set_without_naming_it():
    assert load_recipe("smoke").grpo.reward == CompositeConfig()
    changed = load_recipe("smoke", ["grpo.reward.accuracy_weight=0.5", "grpo.reward.penalty=3"])
    assert changed.grpo.reward == CompositeConfig(accuracy_weight=0.5, penalty=3)


def test_a_kind_chooses_another_reward_with_fields_of_its_own():
    recipe = load_recipe("smoke", ["grpo.reward.correct_weight=2", "grpo.reward.kind=toolrl"])
    assert recipe.grpo.reward == ToolRlConfig(correct_weight=2)
    assert identity(recipe.grpo)["reward"] == {"kind": "toolrl", "format_weight": 1.0, "correct_weight": 2.0}


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["grpo.reward.kind=best"],
            "'best' found using 'kind' does not match .*: 'composite', 'toolrl', 'binary', 'mtr'",
        ),
        (["grpo.reward.weights=[1,2]"], "unknown field .*weights'.* allowed here: accuracy_form, accuracy_weight"),
        (
            ["grpo.reward.kind=binary", "grpo.reward.accuracy_weight=1"],
            "unknown field .*accuracy_weight'; .*allowed here: correct_weight, kind",
        ),
        (["grpo.reward.kind=mtr", "grpo.reward.format_weight=[1,2]"], "format_weight: Input should be a valid number"),
    ],
)
def test_an_unknown_reward_or_a_weight_of_another_shape_is_told_what_is_allowed(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("smoke", settings)
