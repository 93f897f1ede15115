"""A night: the artifacts of one run by node of the plan, and everything the gate and the cards measure on them.

In: a store and references (stage, fingerprint, digest). Out: a `Night`. Everything is verified before it is read; a
missing or changed artifact is an error, never a guess. It compares and decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.manifest import Manifest
from agentflow.artifacts.store import Store
from agentflow.config import Frozen
from agentflow.errors import StoreError
from agentflow.records import canonical_json, sha256_text
from agentflow.report.evaluation import asked
from agentflow.report.model import MODELS

DATASET = "loss_filter"
# The node whose table is the data set that is promoted.
_DUPLICATE = ("duplicate", "near_duplicate")
_CONTAMINATED = ("leak_",)
# How reasons of rejects begin that mean this (hygiene.clean.REASONS).


class ArtifactRef(Frozen):
    """One artifact of a night, named so that it can be found and checked again."""

    stage: str
    fingerprint: str
    digest: str
    # Content: a table's digest; of a checkpoint the sha256 of its files' names and checksums.
    rows: int | None = None

    @property
    def ref(self) -> str:
        return f"{self.stage}/{self.fingerprint}"


class Funnel(Frozen):
    """Where the input keys of a stage went."""

    node: str
    keys_in: int
    keys_out: int
    rows: int
    dropped: dict[str, int] = {}
    quarantined: dict[str, int] = {}
    failed: dict[str, int] = {}

    @property
    def share_out(self) -> float | None:
        return self.keys_out / self.keys_in if self.keys_in else None


class Rejected(Frozen):
    """Questions rejected for one kind of reason, of how many."""

    count: int
    of: int

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0


def content_digest(manifest: Manifest) -> str:
    """What an artifact holds: a table's own digest, otherwise one of its files."""
    return manifest.digest or sha256_text(canonical_json(sorted([e.path, e.sha256] for e in manifest.files)))


def reference(artifact: Artifact) -> ArtifactRef:
    """The reference under which `artifact` stands in a history."""
    manifest = artifact.manifest
    return ArtifactRef(
        stage=artifact.stage, fingerprint=artifact.fingerprint, digest=content_digest(manifest), rows=manifest.rows
    )


def find(store: Store, name: str, ref: ArtifactRef) -> Artifact:
    """The verified artifact behind `ref`.

    Raises StoreError if it is gone or holds other content, CorruptArtifact if it is damaged.
    """
    artifact = store.find(ref.stage, ref.fingerprint)
    if artifact is None:
        raise StoreError(f"{name}: the artifact {ref.ref} is not in {str(store.root)!r} any more; put it back")
    found = content_digest(artifact.manifest)
    if found != ref.digest:
        raise StoreError(f"{name}: {ref.ref} now holds {found}, when it was promoted it held {ref.digest}")
    return artifact


@dataclass(frozen=True)
class Night:
    """What one run made. Open it with `Night.open`; tables are read when they are first needed."""

    artifacts: Mapping[str, Artifact]
    # By node of the plan, in its order: "questions", "loss_filter", "evaluate-grpo", ...
    edition: str = "1"
    refs: Mapping[str, ArtifactRef] = field(default_factory=dict)

    @classmethod
    def of(cls, artifacts: Mapping[str, Artifact], edition: str) -> Night:
        """A night of artifacts at hand. Raises StoreError if the data set is not among them."""
        if DATASET not in artifacts:
            raise StoreError(f"a night needs the artifact of {DATASET!r}; there are {sorted(artifacts)}")
        return cls(artifacts, edition, {name: reference(artifact) for name, artifact in artifacts.items()})

    @classmethod
    def open(cls, store: Store, refs: Mapping[str, ArtifactRef], edition: str) -> Night:
        """A night of the history. Raises StoreError or CorruptArtifact as `find` does."""
        return cls.of({name: find(store, name, ref) for name, ref in refs.items()}, edition)

    def manifest(self, node: str) -> Manifest | None:
        """The manifest of a node, None where the night has no such node."""
        return self.artifacts[node].manifest if node in self.artifacts else None

    @cached_property
    def funnel(self) -> tuple[Funnel, ...]:
        """The stages that make rows of rows, in order; evaluations are no part of it."""
        return tuple(
            Funnel(
                node=node, keys_in=m.keys_in or 0, keys_out=m.counts.out, rows=m.rows or 0, dropped=m.counts.dropped,
                quarantined=m.counts.quarantined, failed=m.counts.failed,
            )
            for node, artifact in self.artifacts.items()
            if (m := artifact.manifest).counts is not None and m.rows is not None and m.stage != "evaluate"
        )  # fmt: skip

    @cached_property
    def duplicates(self) -> Rejected:
        """Questions that stood before."""
        return self._rejected(_DUPLICATE)

    @cached_property
    def contaminated(self) -> Rejected:
        """Questions too close to an evaluation set."""
        return self._rejected(_CONTAMINATED)

    def _rejected(self, words: tuple[str, ...]) -> Rejected:
        found = 0
        for stage in self.funnel:
            for reasons in (stage.dropped, stage.quarantined):
                found += sum(n for reason, n in reasons.items() if reason.startswith(words))
        return Rejected(count=found, of=next((stage.keys_in for stage in self.funnel), 0))

    # ------------------------------------------------------------ data set
    @cached_property
    def words(self) -> list[int]:
        """Words of reasoning of every training row, calls not counted."""
        return pc.count_substring_regex(self._dataset.column("reasoning"), r"\S+").to_pylist()

    @cached_property
    def calls(self) -> list[int]:
        """Calls in every training row."""
        return self._dataset.column("n_calls").to_pylist()

    @cached_property
    def tools(self) -> Counter[str]:
        """Training rows by the tools they use: "none", "Calculator", "Calculator + Search", ..."""
        found: Counter[str] = Counter()
        for segments in self._dataset.column("segments").to_pylist():
            found[" + ".join(sorted({part["tool"] for part in segments if part["kind"] == "call"})) or "none"] += 1
        return found

    @cached_property
    def kept_of(self) -> tuple[int, int]:
        """(samples whose calls the loss filter kept, all or some of them; samples that had calls before it)."""
        decisions = Counter(self._dataset.column("decision").to_pylist())
        dropped = next(stage.dropped for stage in self.funnel if stage.node == DATASET)
        kept = decisions["kept"] + decisions["some_calls_kept"]
        return kept, kept + decisions["calls_removed"] + dropped.get("calls_do_not_help", 0)

    @cached_property
    def n_rows(self) -> int:
        return int(self._dataset.num_rows)

    @cached_property
    def _dataset(self) -> Any:
        return self.artifacts[DATASET].table()

    # ------------------------------------------------------------ model
    @cached_property
    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """Evaluation rows by node, without texts."""
        columns = [
            "id",
            "model",
            "prompt_style",
            "split",
            "kind",
            "correct",
            "well_formed",
            "n_calls",
            "n_tokens",
            "status",
        ]
        return {
            node: asked(artifact, columns) for node, artifact in self.artifacts.items() if artifact.stage == "evaluate"
        }

    def answers_of(self, model: str) -> list[dict[str, Any]]:
        """The evaluation rows of a model as it was trained to answer (the base: all its styles)."""
        return [
            row
            for rows in self.answers.values()
            for row in rows
            if row["model"] == model and (model == "base" or row["prompt_style"] == "trained")
        ]

    @property
    def has_model(self) -> bool:
        """Whether models were trained or evaluated that night; a night of data alone has none."""
        return any(artifact.stage in ("evaluate", "sft", "cold_start", "grpo") for artifact in self.artifacts.values())

    @property
    def last_model(self) -> str | None:
        """The last trained model of the pipeline that was evaluated, else the last that was trained."""
        evaluated = {row["model"] for rows in self.answers.values() for row in rows}
        trained = [model for model in MODELS if model != "base"]
        for made in (evaluated, self.artifacts.keys()):
            if found := [model for model in trained if model in made]:
                return found[-1]
        return None
