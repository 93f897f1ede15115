"""The one place that says what each stage may use on a cluster: a YAML file, or the same as a flow parameter.

    loss_filter: {workers: 4, num_gpus: 1}
    grpo: {workers: 8, gpus_per_worker: 1, num_cpus: 4}
    decode_batch: 96

Never part of a fingerprint, but for the workers of trainings, which decide the rows of a step. What is not named keeps
its default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from agentflow.config import Frozen
from agentflow.errors import ConfigError
from tasks.context import Resources, RunContext

TRAINING = ("sft", "cold_start", "grpo")


class ResourcePlan(Frozen):
    """Resources by stage; a stage's unnamed fields come from `training` (for the three trainings) or the defaults."""

    loss_filter: Resources | None = None
    training: Resources | None = None
    # sft, cold_start and grpo, where they are not named on their own.
    sft: Resources | None = None
    cold_start: Resources | None = None
    grpo: Resources | None = None
    evaluate: Resources | None = None
    decode_batch: int = Field(48, ge=1)
    # Questions a model answers together.

    def apply(self, where: RunContext) -> RunContext:
        """`where` with this plan's resources; its own are the defaults."""
        training = _over(where.training, self.training)
        # Who says how many cores, GPUs or workers answer means each of them, and no halves.
        named = self.evaluate is not None and self.evaluate.model_fields_set & {"cpus", "gpus", "workers"}
        evaluate = where.loss_filter if named else where.evaluate
        changed: dict[str, Any] = {
            "loss_filter": _over(where.loss_filter, self.loss_filter),
            "training": training,
            "evaluate": _over(evaluate, self.evaluate),
            "decode_batch": self.decode_batch,
        }
        changed |= {name: _over(training, getattr(self, name)) for name in TRAINING if getattr(self, name) is not None}
        return where.model_copy(update=changed)

    @property
    def training_workers(self) -> dict[str, int]:
        """Worker processes by training stage, which its fingerprint names."""
        default = _over(Resources(), self.training)
        return {name: _over(default, getattr(self, name)).workers for name in TRAINING}


def by_stage(cores: int) -> dict[str, Resources]:
    """What the stages may use where nobody says it, on nodes of so many cores each, as RunContext's fields.

    Decoding gains little from more cores (one: 40 s for 48 rows of SmolLM2-135M, two: 33 s): answers come from two
    workers side by side where there is room for them.
    """
    each = Resources(cpus=cores)
    halves = Resources(cpus=cores // 2, workers=2) if cores > 1 else each
    return {"loss_filter": each, "training": each, "evaluate": halves}


def _over(default: Resources, named: Resources | None) -> Resources:
    """`default` with the fields that `named` was really given."""
    if named is None:
        return default
    return default.model_copy(update={name: getattr(named, name) for name in named.model_fields_set})


def load_resources(path: Path) -> ResourcePlan:
    """The plan in a YAML file. Raises ConfigError naming the stage, field, value and what is allowed."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read resources file {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"resources file {str(path)!r} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"resources file {str(path)!r} is not YAML: {error}") from error
    if content is None:
        return ResourcePlan()
    if not isinstance(content, dict):
        raise ConfigError(
            f"resources file {str(path)!r} must hold stages with their resources; found {content!r}"[:300]
        )
    try:
        return ResourcePlan.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"resources file {str(path)!r}: " + "; ".join(map(_explain, error.errors()))) from error


def workers_in(path: Path | str | None) -> dict[str, int] | None:
    """How many workers train by the file `path`; None (everywhere one) without a file. Raises as `load_resources`."""
    return None if path is None else load_resources(Path(path)).training_workers


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        stage = len(problem["loc"]) > 1
        allowed = "workers, num_cpus, num_gpus, restarts, wait_s" if stage else ", ".join(ResourcePlan.model_fields)
        return f"unknown {'field' if stage else 'stage'} {place!r}; allowed here: {allowed}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')} (given: {str(problem['input'])[:80]!r})"
