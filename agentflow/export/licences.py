"""What every row is made of: teacher, terms of its answers, licence of its question, provider and licence of its
searches; and a policy that refuses rows or mixes.

In: an artifact and its ancestors in the store. Out: seven more columns a row (`COLUMNS`). Nothing is guessed: what
neither the source nor the policy says is "unknown", which the policy refuses unless told otherwise. It gives no legal
advice: the words for a teacher's terms are the user's own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa
from pydantic import Field

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.manifest import Manifest
from agentflow.artifacts.store import Store
from agentflow.artifacts.tables import iterate_rows
from agentflow.config import Frozen
from agentflow.errors import LicenceRefused, StoreError

UNKNOWN = "unknown"
OWN = "Apache-2.0"
# Of what this project generates itself: arithmetic problems, the invented encyclopedia.
KNOWN = {
    "arithmetic": OWN,
    "two_hop": OWN,
    "gsm8k": "MIT",
    "hotpotqa": "CC-BY-SA-4.0",
    "musique": "CC-BY-4.0",
    "2wikimultihopqa": "Apache-2.0",
    "bamboogle": "MIT",
    "nq_open": "CC-BY-SA-3.0",
    "toolrl": "Apache-2.0",
}
# Question kind to the SPDX id its publisher states. A row's own `meta.licence` goes before it.
COLUMNS = (
    "teacher_provider",
    "teacher_model",
    "terms",
    "source",
    "source_licence",
    "search_provider",
    "search_licence",
)
FIELDS = tuple(pa.field(name, pa.string()) for name in COLUMNS)
STANDIN_TERMS = "none (local stand-in)"
RECORDED_TERMS = "as source_licence (the data set's own solution)"
_EXAMPLES = 3


class LicencePolicy(Frozen):
    """Of what a data set may be made. Licences are SPDX ids, providers as in the rows (`https://api.host`)."""

    licences: dict[str, str] = {}
    # Question kind, source or search provider to licence, where the project does not know it or is wrong.
    terms: dict[str, str] = {}
    # Teacher provider to the name of the terms you use its answers under. None is known by itself but the stand-in's.
    allowed: tuple[str, ...] | None = None
    # Licences and terms that may occur. Empty: all that are not refused.
    refused: tuple[str, ...] = ()
    allow_unknown: bool = False
    refuse_together: tuple[tuple[str, str], ...] = Field(
        (
            ("CC-BY-SA-3.0", "CC-BY-NC-4.0"),
            ("CC-BY-SA-4.0", "CC-BY-NC-4.0"),
            ("CC-BY-SA-3.0", "CC-BY-NC-SA-4.0"),
            ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"),
        )
    )
    # Pairs of licences that may not stand in one data set. Default: share-alike beside non-commercial, each of which
    # forbids what the other demands [O].


@dataclass(frozen=True)
class Provenance:
    """What is known about the rows of one artifact; `columns` says it of one row."""

    policy: LicencePolicy
    teacher: tuple[str, str] | None = None
    # Provider and model, from the configuration of `traces`.
    search: str | None = None
    # Provider, from the configuration of `tool_insertion`.
    search_licence: str = UNKNOWN
    questions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # Question id to source and licence.

    def columns(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """`COLUMNS` of a row of any table; None where the row has no teacher, or no search.

        Raises StoreError for a row whose question is not among the questions it was made from.
        """
        question = row.get("question_id", row["id"])
        if question not in self.questions:
            raise StoreError(f"row {row['id']!r}: its question {question!r} is not among the questions of its artifact")
        source, licence = self.questions[question]
        searched = any(part["tool"] == "Search" for part in row.get("segments") or [])
        provider, model, terms = self._teacher(row.get("teacher"))
        return {
            "teacher_provider": provider,
            "teacher_model": model,
            "terms": terms,
            "source": source,
            "source_licence": licence,
            "search_provider": self.search if searched else None,
            "search_licence": self.search_licence if searched else None,
        }

    def _teacher(self, label: str | None) -> tuple[str | None, str | None, str | None]:
        if label is None:
            return None, None, None
        if label == "recorded":
            return "recorded", None, RECORDED_TERMS
        provider, model = self.teacher or ("", "")
        if label != f"{provider}/{model}":  # the configuration of `traces` is in its fingerprint; fail closed
            return label, None, UNKNOWN
        own = STANDIN_TERMS if provider.startswith("local/") else UNKNOWN
        return provider, model, self.policy.terms.get(provider, own)


def provenance(artifact: Artifact, store: Store, policy: LicencePolicy) -> Provenance:
    """Follow `artifact` back to its questions. Raises StoreError if an ancestor is gone or the table has none."""
    manifests: dict[str, Manifest] = {}
    questions = artifact
    while questions.stage != "questions":
        manifests[questions.stage] = questions.manifest
        parent = next((n for n in ("tool_insertion", "traces", "questions") if n in questions.manifest.inputs), None)
        found = store.find(parent, questions.manifest.inputs[parent]) if parent else None
        if found is None:
            raise StoreError(
                f"{artifact.ref}: the {parent or 'questions'} it was made from are not in {str(store.root)!r}, so "
                "nobody can say under which licences its rows stand; put them back"
            )
        questions = found
    search = manifests["tool_insertion"].config["search"] if "tool_insertion" in manifests else None
    teacher = manifests["traces"].config["teacher"] if "traces" in manifests else None
    return Provenance(
        policy=policy,
        teacher=(teacher["provider"], teacher["model"]) if teacher else None,
        search=search["provider"] if search else None,
        search_licence=_search_licence(search, policy) if search else UNKNOWN,
        questions=dict(_questions(questions, policy)),
    )


def _questions(artifact: Artifact, policy: LicencePolicy) -> Iterable[tuple[str, tuple[str, str]]]:
    for row in iterate_rows(artifact.table().select(["id", "kind", "source", "meta"])):
        meta = json.loads(row["meta"] or "{}")
        stated = policy.licences.get(row["source"]) or policy.licences.get(row["kind"])
        own = meta.get("licence") if isinstance(meta, dict) else None
        yield row["id"], (row["source"], stated or own or KNOWN.get(row["kind"], UNKNOWN))


def _search_licence(search: Mapping[str, Any], policy: LicencePolicy) -> str:
    provider = search["provider"]
    invented = provider.startswith("local/") and not search.get("local", {}).get("corpus")
    return policy.licences.get(provider, OWN if invented else UNKNOWN)


class Licences:
    """Counts what rows are made of while they pass, and says whether the policy lets them."""

    def __init__(self, policy: LicencePolicy) -> None:
        self._policy = policy
        self.counts: dict[tuple[str, str], int] = defaultdict(int)
        # (column, licence or terms) to rows.
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, row_id: str, columns: Mapping[str, str | None]) -> None:
        """Take note of one row."""
        for name in ("terms", "source_licence", "search_licence"):
            value = columns[name]
            if value is None:
                continue
            self.counts[name, value] += 1
            if len(self._examples[value]) < _EXAMPLES:
                self._examples[value].append(row_id)

    def check(self, what: str) -> None:
        """Raise LicenceRefused naming licences and rows unless the policy lets this data set be made."""
        problems = [
            problem for (name, value), n in sorted(self.counts.items()) if (problem := self._why(name, value, n))
        ]
        present = sorted({value for name, value in self.counts if name != "terms"})
        forbidden = {frozenset(pair) for pair in self._policy.refuse_together}
        for one, other in combinations(present, 2):
            if frozenset((one, other)) in forbidden:
                problems.append(
                    f"{one} {self._examples[one]} and {other} {self._examples[other]} may not stand together"
                )
        if problems:
            raise LicenceRefused(
                f"{what} is refused by the licence policy: {'; '.join(problems)}. Leave those rows out, or say in the "
                "policy what is true: licences, terms, allowed, refused, refuse_together, allow_unknown"
            )

    def _why(self, name: str, value: str, n: int) -> str | None:
        policy = self._policy
        rows = f"{n} rows, e.g. {self._examples[value]}"
        if value in policy.refused:
            return f"{name} {value!r} is refused ({rows})"
        if value == UNKNOWN:
            return None if policy.allow_unknown else f"{name} is unknown ({rows})"
        free = value in (STANDIN_TERMS, RECORDED_TERMS)
        if policy.allowed is not None and value not in policy.allowed and not free:
            return f"{name} {value!r} is not among the allowed {list(policy.allowed)} ({rows})"
        return None


def check_table(artifact: Artifact, store: Store, policy: LicencePolicy) -> Licences:
    """The licences of all rows of `artifact`. Raises LicenceRefused if the policy forbids them."""
    origin, licences = provenance(artifact, store, policy), Licences(policy)
    for row in iterate_rows(artifact.table()):
        licences.add(row["id"], origin.columns(row))
    licences.check(artifact.ref)
    return licences
