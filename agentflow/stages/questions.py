"""questions: nothing -> QUESTIONS. Reads or generates questions, split before anything is made from them, and leaves
out what should not be trained on: exact and near duplicates, and questions that an evaluation set holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from agentflow.arrow_rows import Joined
from agentflow.config import Frozen
from agentflow.hygiene.clean import REASONS, Finding, find
from agentflow.hygiene.config import HygieneConfig
from agentflow.records import Outcomes, Reject
from agentflow.sources.file_sources import Loaded, read_sources
from agentflow.sources.source import GeneratedSource, Source, file_sources, load_questions

_QUOTED = 400
# Characters of another question that a reject quotes.


class QuestionsConfig(Frozen):
    """Where questions come from, and which of them are left out."""

    source: Source = Field(discriminator="kind")
    hygiene: HygieneConfig = HygieneConfig()
    # Has no effect on generated questions.


@dataclass(frozen=True)
class Cleaned:
    """The stage's outcome and what hygiene looked at."""

    outcomes: Outcomes
    facts: dict[str, Any]
    # {"checked", "evaluation", "against": {set: questions}, "dropped": {reason: n}}; numbers are questions. {} where
    # nothing was looked at.


def questions(config: QuestionsConfig) -> Outcomes:
    """All questions of the source, with their split.

    Bad lines are quarantined alone, duplicates and leaks dropped; raises InputError for missing files.
    """
    return cleaned_questions(config).outcomes


def cleaned_questions(config: QuestionsConfig) -> Cleaned:
    """The same with the facts for the report."""
    if isinstance(config.source, GeneratedSource):
        return Cleaned(load_questions(config.source), {})
    loaded = read_sources(file_sources(config.source))
    against = read_sources(config.hygiene.against) if config.hygiene.against and config.hygiene.on else None
    findings = _findings(loaded, against, config.hygiene) if config.hygiene.on else []
    everything = Joined([loaded.rows, against.rows] if against else [loaded.rows])
    rejects = [*loaded.rejects, *(_reject(found, loaded, everything) for found in findings)]
    stays = np.ones(len(loaded.kept), dtype=bool)
    stays[[found.index for found in findings]] = False
    rows = loaded.questions.rows.select(loaded.kept[stays])
    outcomes = Outcomes(rows, rejects, loaded.keys_in, len(rows))
    return Cleaned(outcomes, _facts(loaded, against, rejects) if config.hygiene.on else {})


def _findings(loaded: Loaded, against: Loaded | None, config: HygieneConfig) -> list[Finding]:
    """Findings by index into the loaded rows, those of further evaluation sets after them."""
    parts = [loaded, against] if against else [loaded]
    evaluation = [loaded.questions.evaluation[loaded.kept]]
    if against:
        evaluation.append(np.ones(len(against.kept), dtype=bool))
    texts = Joined([part.questions.texts_at(part.kept) for part in parts])
    digests = np.concatenate([part.questions.digests[part.kept] for part in parts])
    return find(texts, np.concatenate(evaluation), digests, config)


def _facts(loaded: Loaded, against: Loaded | None, rejects: list[Reject]) -> dict[str, Any]:
    tests = int(loaded.questions.evaluation[loaded.kept].sum())
    sets = Counter(row["source"] for row in against.rows) if against else Counter()
    dropped = Counter(reject.reason for reject in rejects if reject.status == "dropped")
    return {
        "checked": len(loaded.kept) - tests,
        "evaluation": tests + sets.total(),
        "against": dict(sorted(sets.items())),
        "dropped": {reason: dropped[reason] for reason in REASONS if dropped[reason]},
    }


def _reject(found: Finding, loaded: Loaded, everything: Sequence[dict[str, Any]]) -> Reject:
    place = int(loaded.kept[found.index])
    twin = everything[found.twin]
    own = found.twin < len(loaded.kept)
    where = f"({twin['source']}, {twin['split'] if own else 'against'})"
    name = f"{'' if found.reason == 'near_duplicate' else 'evaluation question '}{twin['id']} {where}"
    said = {
        "leak_exact": f"the same words as {name}",
        "leak_ngram": f"{len(found.shared.split())} words in a row of {name}: {found.shared!r}",
        "leak_number_swap": f"{name} with other numbers",
        "leak_near": f"similarity {found.similarity or 0:.2f} to {name}",
        "near_duplicate": f"similarity {found.similarity or 0:.2f} to {name}",
    }[found.reason]
    detail = f"{said}; there: {twin['question'][:_QUOTED]!r}"
    return Reject(loaded.questions.keys[place], "dropped", found.reason, detail, loaded.questions.rows[place])
