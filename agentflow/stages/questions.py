"""questions: nothing -> QUESTIONS. Reads or generates questions, split before anything is made from them."""

from __future__ import annotations

from pydantic import Field

from agentflow.config import Frozen
from agentflow.records import Outcomes
from agentflow.sources.source import Source, load_questions


class QuestionsConfig(Frozen):
    """Where questions come from."""

    source: Source = Field(discriminator="kind")


def questions(config: QuestionsConfig) -> Outcomes:
    """All questions of the source, with their split.

    Bad lines are quarantined alone; raises InputError for missing files.
    """
    return load_questions(config.source)
