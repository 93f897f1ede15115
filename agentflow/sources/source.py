"""The question source of a run: its configuration in, all question rows with their split out.

`split` is fixed here, before anything is made from a question: "train", "test" (new instances of trained templates;
for real data a share by hash, or a file of its own) and "test_unseen" (templates never trained on). No question is
in two splits. It asks no model and, unless a hub id is given, uses no network.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow.config import Frozen
from agentflow.records import Outcomes, canonical_json, sha256_text
from agentflow.sources import arithmetic, encyclopedia
from agentflow.sources.file_sources import FileSource, Split, read_sources
from agentflow.sources.problems import Problem


class GeneratedSource(Frozen):
    """Arithmetic word problems and two-hop questions made on the spot, with a recorded solution each.

    Numbers are questions. The same seed gives the same tests whatever the training sizes.
    """

    kind: Literal["generated"] = "generated"
    seed: int = 0
    arithmetic_train: int = Field(default=0, ge=0)
    arithmetic_templates: int = Field(default=12, ge=1, le=len(arithmetic.TRAINED))
    # Train on the first n of `arithmetic.TRAINED`; the others then count as unseen.
    two_hop_train: int = Field(default=0, ge=0)
    two_hop_templates: int = Field(default=12, ge=1, le=len(encyclopedia.TRAINED))
    # The same for `encyclopedia.TRAINED`.
    test_arithmetic: int = Field(default=0, ge=0)
    test_two_hop: int = Field(default=0, ge=0)
    # New instances of the templates trained on.
    test_unseen_arithmetic: int = Field(default=0, ge=0)
    test_unseen_two_hop: int = Field(default=0, ge=0)
    # Instances of templates never trained on.
    world_seed: int = 0
    # Which encyclopedia; the search service must serve the same.


class MixedSource(Frozen):
    """Several real data sets in one run; an exact duplicate across them stays once."""

    kind: Literal["mixed"] = "mixed"
    parts: tuple[Annotated[FileSource, Field(discriminator="kind")], ...] = Field(min_length=1)


Source = GeneratedSource | FileSource | MixedSource
# A union by `kind`; declare it as `source: Source = Field(discriminator="kind")`.


def file_sources(config: FileSource | MixedSource) -> tuple[FileSource, ...]:
    """The data sets of the source."""
    return config.parts if isinstance(config, MixedSource) else (config,)


def load_questions(config: Source) -> Outcomes:
    """All questions of the source in QUESTIONS columns, and a Reject for each line that is not one.

    Rejects as `file_sources.read_sources` gives them: a test question never is in train. `keys_in` counts lines or
    problems. Raises InputError for a missing file or if not one usable question is in it, ConfigError if the templates
    cannot give that many.
    """
    if isinstance(config, GeneratedSource):
        rows = _arithmetic(config) + _two_hop(config)
        return Outcomes(rows, [], len(rows), len(rows))
    loaded = read_sources(file_sources(config))
    return Outcomes(list(loaded.rows), loaded.rejects, loaded.keys_in, len(loaded.kept))


def _arithmetic(config: GeneratedSource) -> list[dict[str, Any]]:
    trained, later = _split_templates(arithmetic.TRAINED, config.arithmetic_templates)
    # Streams of their own: more training questions must not change the tests.
    tests = arithmetic.generate(_stream(config, "test"), config.test_arithmetic, trained)
    unseen = arithmetic.generate(_stream(config, "unseen"), config.test_unseen_arithmetic, (*arithmetic.UNSEEN, *later))
    train = arithmetic.generate(_stream(config, "train"), config.arithmetic_train, trained, exclude=tests)
    return _rows(arithmetic.KIND, train, tests, unseen, {})


def _two_hop(config: GeneratedSource) -> list[dict[str, Any]]:
    world = encyclopedia.World(config.world_seed)
    trained, later = _split_templates(encyclopedia.TRAINED, config.two_hop_templates)
    # Tests start from other entities than training questions, so nothing about them can be learnt by heart.
    tests = encyclopedia.generate(_stream(config, "test"), config.test_two_hop, trained, world, starts="test")
    unseen = encyclopedia.generate(
        _stream(config, "unseen"), config.test_unseen_two_hop, (*encyclopedia.UNSEEN, *later), world, starts="test"
    )
    train = encyclopedia.generate(_stream(config, "train"), config.two_hop_train, trained, world, starts="train")
    return _rows(encyclopedia.KIND, train, tests, unseen, {"world_seed": config.world_seed})


def _split_templates(trained: tuple[str, ...], n: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return trained[:n], trained[n:]


def _stream(config: GeneratedSource, name: str) -> int:
    """The seed of one stream of problems."""
    return int(sha256_text(f"{config.seed}|{name}")[:12], 16)


def _rows(
    kind: str, train: list[Problem], tests: list[Problem], unseen: list[Problem], meta: dict[str, Any]
) -> list[dict[str, Any]]:
    splits: list[tuple[Split, list[Problem]]] = [("train", train), ("test", tests), ("test_unseen", unseen)]
    return [
        {
            "id": problem.id,
            "question": problem.question,
            "answer": problem.answer,
            "aliases": list(problem.aliases),
            "answer_type": "number" if kind == arithmetic.KIND else "text",
            "kind": kind,
            "split": split,
            "template": problem.template,
            "rationale": problem.rationale,
            "source": "generated",
            "meta": canonical_json({**meta, "equations": problem.steps, "lookups": problem.lookups}),
        }
        for split, problems in splits
        for problem in problems
    ]
