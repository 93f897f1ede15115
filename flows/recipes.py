"""Recipes: a run is a function with few knobs that returns a full configuration.

Variants replace fields (`with_settings`).

`demo`   the real SmolLM2-135M on generated questions: minutes on two cores, no key, no GPU, no hub
`smoke`  a two-layer random model through the whole DAG: the test suite's end-to-end run
`deliberate_data`  the data half of paper A on real GSM8K and HotpotQA rows: calculator and search calls, loss filter

The papers' own models and hyperparameters stand in `flows.presets`; what a recipe is, in `flows.recipe`.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from agentflow.clients.search import LocalSearch, SearchConfig
from agentflow.clients.teacher import LocalTeacher, TeacherConfig
from agentflow.config import Frozen
from agentflow.errors import ConfigError
from agentflow.models.settings import GenerationConfig
from agentflow.models.sources import PackagedGguf, TinyModel
from agentflow.sources.file_sources import Gsm8kSource, HotpotSource
from agentflow.sources.source import GeneratedSource, MixedSource
from agentflow.stages.base_model import BaseModelConfig
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.stages.loss_filter import LossFilterConfig
from agentflow.stages.questions import QuestionsConfig
from agentflow.stages.sft import SftConfig
from agentflow.stages.tool_insertion import ToolInsertionConfig
from agentflow.stages.traces import TracesConfig
from agentflow.tools.web_search import WebSearchConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from flows.presets import PRESETS
from flows.recipe import Recipe, evaluations


def demo() -> Recipe:
    """SmolLM2-135M learns calculator and search on generated questions."""
    optimiser = OptimiserSettings(learning_rate=1e-3, schedule="cosine", warmup_ratio=0.1, batch_size=4, accumulation=1)
    settings = SupervisedSettings(lora=LoraSettings(dropout=0.0), optimiser=optimiser, max_steps=72, max_length=512)
    # Eight rows a step as two passes of four: all eight at once took the whole run above 8 GB.
    gentle = optimiser.model_copy(update={"learning_rate": 2e-4, "accumulation": 2})
    # 2 x 8: sixteen samples a step; with four rows at once the training worker alone needs 6 GB.
    policy = OptimiserSettings(learning_rate=2e-5, schedule="constant", warmup_ratio=0.0, batch_size=2, accumulation=8)
    source = GeneratedSource(
        arithmetic_train=290,
        arithmetic_templates=10,
        two_hop_train=48,
        two_hop_templates=4,
        test_arithmetic=44,
        test_two_hop=20,
        test_unseen_arithmetic=20,
        test_unseen_two_hop=12,
    )
    return Recipe(
        name="demo",
        base_model=BaseModelConfig(source=PackagedGguf()),
        questions=QuestionsConfig(source=source),
        tools=ToolsConfig(web_search=WebSearchConfig(n_results=1)),
        search=SearchConfig(max_results=3),
        loss_filter=LossFilterConfig(losers="drop"),
        sft=SftConfig(settings=settings),
        cold_start=ColdStartConfig(
            n_samples=48, settings=settings.model_copy(update={"optimiser": gentle, "max_steps": 6})
        ),
        grpo=GrpoConfig(generation=GenerationConfig(max_new_tokens=160, temperature=1.2), steps=6, optimiser=policy),
        evaluate=evaluations(GenerationConfig(max_new_tokens=220)),
        notes=(
            "Teacher and search are local stand-ins: the numbers show that the pipeline works, not how good a real "
            "teacher is.",
            "loss_filter.losers is 'drop' (paper A keeps losing samples without their calls), so that a small model on "
            "few samples always sees the call syntax.",
        ),
    )


def smoke() -> Recipe:
    """A few-layer random model through the whole DAG."""
    optimiser = OptimiserSettings(learning_rate=5e-3, schedule="constant", batch_size=4, accumulation=1)
    lora = LoraSettings(rank=4, alpha=8, dropout=0.0)
    settings = SupervisedSettings(lora=lora, optimiser=optimiser, max_steps=4, max_length=1024)
    source = GeneratedSource(
        arithmetic_train=16,
        arithmetic_templates=4,
        two_hop_train=8,
        two_hop_templates=2,
        test_arithmetic=3,
        test_two_hop=2,
        test_unseen_arithmetic=2,
        test_unseen_two_hop=1,
    )
    generation = GenerationConfig(max_new_tokens=24, temperature=1.0)
    policy = OptimiserSettings(learning_rate=1e-3, schedule="constant", batch_size=4, accumulation=1)
    return Recipe(
        name="smoke",
        base_model=BaseModelConfig(source=TinyModel()),
        questions=QuestionsConfig(source=source),
        tools=ToolsConfig(web_search=WebSearchConfig(n_results=1)),
        traces=TracesConfig(batch_size=8),
        tool_insertion=ToolInsertionConfig(batch_size=8),
        loss_filter=LossFilterConfig(n_examples=1),
        sft=SftConfig(settings=settings),
        cold_start=ColdStartConfig(n_samples=6, settings=settings.model_copy(update={"max_steps": 2})),
        grpo=GrpoConfig(generation=generation, steps=2, group_size=2, optimiser=policy),
        evaluate=evaluations(GenerationConfig(max_new_tokens=16)),
        notes=("A random two-layer model: no number here means anything but that the pipeline runs.",),
    )


def deliberate_data() -> Recipe:
    """Paper A's data on a few dozen real GSM8K and HotpotQA questions, up to the loss filter."""
    data = Path(os.environ.get("AGENTFLOW_DATA", "data"))
    hotpotqa = data / "hotpotqa" / "train_distractor.jsonl"
    source = MixedSource(
        parts=(
            Gsm8kSource(path=data / "gsm8k" / "train.jsonl", limit=48, test_fraction=0),
            HotpotSource(path=hotpotqa, limit=32, test_fraction=0),
        )
    )
    return Recipe(
        name="deliberate_data",
        upto="data",
        base_model=BaseModelConfig(source=PackagedGguf()),
        questions=QuestionsConfig(source=source),
        tools=ToolsConfig(
            web_search=WebSearchConfig(n_results=2, max_chars_per_result=480, max_tokens=240, leaks="drop")
        ),
        teacher=TeacherConfig(local=LocalTeacher(known=hotpotqa)),
        search=SearchConfig(local=LocalSearch(corpus=data / "search_corpus")),
        traces=TracesConfig(recorded_kinds=("gsm8k",)),
        notes=(
            "GSM8K's reasoning is the data set's own; HotpotQA's comes from a local stand-in that recites the "
            "supporting facts, and the searches run over a local corpus.",
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "smoke": smoke,
    "deliberate_data": deliberate_data,
    **PRESETS,
}


# ---------------------------------------------------------------- from the command line
def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or of a YAML file `{recipe: demo, name: ..., set: {path: value}}`, with `path=value`
    settings applied.

    Raises ConfigError naming the field, its value and what is allowed.
    """
    changes: dict[str, Any] = {}
    if name.endswith((".yaml", ".yml")):
        base, changes = _read_file(Path(name))
    else:
        base = name
    if base not in RECIPES:
        close = difflib.get_close_matches(base, RECIPES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"unknown recipe {base!r}; there are {', '.join(sorted(RECIPES))}, or give a .yaml file{hint}"
        )
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"setting {setting!r} is not of the form path.to.field=value")
        changes[path] = _value(value)
    return with_settings(RECIPES[base](), changes)


def _read_file(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read recipe file {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file {str(path)!r} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe file {str(path)!r} is not YAML: {error}") from error
    allowed = {"recipe", "name", "set"}
    if not isinstance(content, dict) or not set(content) <= allowed or "recipe" not in content:
        raise ConfigError(
            f"recipe file {str(path)!r} must hold `recipe`, and may hold `name` and `set`; found {content!r}"[:400]
        )
    changes = content.get("set") or {}
    if not isinstance(changes, dict) or not all(isinstance(field, str) for field in changes):
        raise ConfigError(f"`set` of recipe file {str(path)!r} must map fields to values; found {changes!r}"[:400])
    changes = dict(changes)
    if "name" in content:
        changes["name"] = content["name"]
    return str(content["recipe"]), changes


def _value(text: str) -> Any:
    """JSON where it is JSON, otherwise the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or more digits or brackets than Python reads
        return text


def with_settings(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """`recipe` with dotted fields replaced.

    Setting a `kind` starts that section anew, since another kind has other fields.
    """
    data = _explicit(recipe)
    # Kinds first: they replace their whole section.
    for path, value in sorted(changes.items(), key=lambda item: not item[0].endswith(".kind")):
        _set(data, path, value)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, recipe)) from error


def _explicit(value: Any) -> Any:
    """Only what was set on purpose, so that shared sections stay unset in the stages."""
    if isinstance(value, Frozen):
        kind = {name: getattr(value, name) for name in ("kind",) if name in type(value).model_fields}
        return {**kind, **{name: _explicit(getattr(value, name)) for name in value.model_fields_set}}
    if isinstance(value, tuple | list):
        return [_explicit(item) for item in value]
    return value


def _set(data: Any, path: str, value: Any) -> None:
    """Put `value` at the dotted `path` of nested sections and lists. Raises ConfigError if there is no such place."""
    *parents, last = path.split(".")
    for depth, part in enumerate(parents):
        here = ".".join(parents[: depth + 1])
        if isinstance(data, list):
            data = data[_index(part, data, here)]
        else:
            data = data.setdefault(part, {})
        if not isinstance(data, dict | list):
            raise ConfigError(f"{path!r}: {here} is a value, not a section")
    if isinstance(data, list):
        data[_index(last, data, path)] = value
        return
    if last == "kind" and data.get("kind") != value:
        data.clear()
    data[last] = value


def _index(part: str, entries: list[Any], here: str) -> int:
    if not part.isdigit() or int(part) >= len(entries):
        raise ConfigError(
            f"{here!r} is not one of the {len(entries)} entries: give a number from 0 to {len(entries) - 1}"
        )
    return int(part)


def _explain(error: ValidationError, recipe: Recipe) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        line = problem["msg"].removeprefix("Value error, ")
        if where:
            line = f"{where}: {line} (given: {str(problem['input'])[:120]!r})"
        if problem["type"] == "extra_forbidden":
            line = f"unknown field {where!r}; {_allowed_beside(recipe, problem['loc'])}"
        lines.append(line)
    return f"recipe {recipe.name!r}: " + "; ".join(lines)


def _of_kind(annotation: Any, kind: Any) -> type[Frozen] | None:
    """The class of a union whose `kind` that is; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        field = annotation.model_fields.get("kind")
        return annotation if field is not None and field.default == kind else None
    return next((found for part in get_args(annotation) if (found := _of_kind(part, kind))), None)


def _allowed_beside(recipe: Recipe, location: tuple[Any, ...]) -> str:
    section: Any = recipe
    kinds: Any = None
    for part in location[:-1]:
        if isinstance(section, tuple):
            # The list that was given may be longer: then its entries are named by the kind of those that are there.
            section = section[min(int(part), len(section) - 1)] if section else None
        elif hasattr(section, str(part)):
            kinds = type(section).model_fields[str(part)].annotation if isinstance(section, Frozen) else None
            section = getattr(section, str(part))
    # Where a section is chosen by its kind, the location names the kind that was given: the recipe may hold another.
    chosen = _of_kind(kinds, location[-2] if len(location) > 1 else None) or type(section)
    names = sorted(chosen.model_fields) if issubclass(chosen, Frozen) else []
    close = difflib.get_close_matches(str(location[-1]), names, 1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed here: {', '.join(names)}"
