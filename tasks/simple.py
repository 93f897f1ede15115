"""base_model and questions: stages that one process does in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from prefect import task
from prefect.cache_policies import NO_CACHE
from ray.exceptions import RayTaskError

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.schemas import QUESTIONS
from agentflow.stages.base_model import BaseModelConfig
from agentflow.stages.questions import QuestionsConfig, cleaned_questions
from tasks.context import RunContext
from tasks.making import Effort, Made, make
from tasks.pool import own_error


@ray.remote(max_retries=0)
def _convert(config: BaseModelConfig, folder: str) -> dict[str, Any]:
    from agentflow.models.loading import convert

    return convert(config.source, Path(folder), four_bit=config.four_bit)


@task(name="base-model", task_run_name="base_model", retries=0, cache_policy=NO_CACHE)
def make_base_model(identity: Identity, config: BaseModelConfig, where: RunContext) -> Made:
    """The base model as safetensors and tokenizer, converted once."""

    def compute(store: Store, effort: Effort) -> Artifact:
        # In a Ray worker: the driver stays free of torch, and starts in seconds when everything is reused.
        def write(folder: Path) -> None:
            try:
                ray.get(_convert.remote(config, str(folder)))
            except RayTaskError as error:
                raise own_error(error.cause) or error from error

        return store.commit_files(identity, write, recipe=where.recipe, **effort.spent())

    return make("base_model", identity, where, compute)


@task(name="questions", task_run_name="questions", retries=0, cache_policy=NO_CACHE)
def make_questions(identity: Identity, config: QuestionsConfig, where: RunContext) -> Made:
    """All questions, split before anything is made from them, without leaks and near duplicates."""

    def compute(store: Store, effort: Effort) -> Artifact:
        cleaned = cleaned_questions(config)
        extra = {"hygiene": cleaned.facts} if cleaned.facts else {}
        return store.commit_table(
            identity, cleaned.outcomes, QUESTIONS, recipe=where.recipe, extra=extra, **effort.spent()
        )

    return make("questions", identity, where, compute)
