"""The question source of a run: its configuration in, all question rows with their split out.

`split` is fixed here, before anything is made from a question: "train", "test" (new instances of trained templates;
for real data a share by hash, or a file of its own) and "test_unseen" (templates never trained on). No question is
in two splits. It asks no model and, unless a hub id is given, uses no network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agentflow.config import Frozen, LocalFile
from agentflow.errors import ConfigError, InputError
from agentflow.records import Outcomes, Reject, canonical_json, sha256_text
from agentflow.sources import arithmetic, encyclopedia, gsm8k, hotpotqa
from agentflow.sources.problems import Problem, normalise_question
from agentflow.sources.readers import BadRow, Record, read_hub, read_jsonl

Split = Literal["train", "test", "test_unseen"]


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


class _FileSource(Frozen):
    """A real data set: a local JSONL file, or a hub id at a pinned revision."""

    path: Annotated[Path | None, LocalFile()] = None
    test_path: Annotated[Path | None, LocalFile()] = None
    # Test questions from a file of their own. None: `test_fraction` of `path`.
    hub_id: str | None = None
    revision: str | None = None
    # Commit hash (40 hex digits) of the hub's repository; a branch or tag may move and is refused.
    hub_config: str | None = None
    hub_split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    # First lines of `path` (or rows of the hub) to read, bad ones included. None: all.
    test_limit: int | None = Field(default=None, ge=1)
    # The same for `test_path`.
    test_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    # Share of questions that are tests, chosen by the hash of the question; unused with `test_path`.

    @model_validator(mode="after")
    def _one_origin(self) -> _FileSource:
        if (self.path is None) == (self.hub_id is None):
            raise ConfigError(
                f"source has path {None if self.path is None else str(self.path)!r} and hub_id {self.hub_id!r}; "
                "give exactly one of them"
            )
        if self.hub_id is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ConfigError(
                f"hub_id {self.hub_id!r} has revision {self.revision!r}; "
                "give the commit hash (40 hex digits) it is to be read at, a branch or tag may move"
            )
        if self.test_limit is not None and self.test_path is None:
            raise ConfigError(
                f"test_limit is {self.test_limit} but there is no test_path; give the test file or `limit`"
            )
        return self


class Gsm8kSource(_FileSource):
    """GSM8K (openai/grade-school-math): arithmetic word problems with worked solutions."""

    kind: Literal["gsm8k"] = "gsm8k"
    hub_config: str | None = "main"


class HotpotSource(_FileSource):
    """HotpotQA: multi-hop questions, with paragraphs and supporting facts where the file has them."""

    kind: Literal["hotpotqa"] = "hotpotqa"
    hub_config: str | None = "distractor"


Source = GeneratedSource | Gsm8kSource | HotpotSource
# A union by `kind`; declare it as `source: Source = Field(discriminator="kind")`.
_ROW_OF: dict[str, Callable[[Record], dict[str, Any]]] = {
    "gsm8k": gsm8k.question_row,
    "hotpotqa": hotpotqa.question_row,
}


def load_questions(config: Source) -> Outcomes:
    """All questions of the source in QUESTIONS columns, and a Reject for each line that is not one.

    Rejects: "quarantined" with the reason of `readers.BadRow` or `read_jsonl`; "dropped" as "duplicate" for a question
    that stood before (tests are read first, so a test question never is in train). `keys_in` counts lines or problems.
    Raises InputError for a missing file or if not one usable question is in it, ConfigError if the templates cannot
    give that many.
    """
    if isinstance(config, GeneratedSource):
        rows = _arithmetic(config) + _two_hop(config)
        return Outcomes(rows, [], len(rows), len(rows))
    return _read(config)


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


def _read(config: Gsm8kSource | HotpotSource) -> Outcomes:
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    seen: dict[str, str] = {}
    keys_in = 0
    for name, fixed_split, records in _origins(config):
        for key, record in records:
            keys_in += 1
            row = record if isinstance(record, Reject) else _row(key, record, config)
            if isinstance(row, Reject):
                rejects.append(row)
                continue
            normal = normalise_question(row["question"])
            if normal in seen:
                rejects.append(Reject(key, "dropped", "duplicate", f"same question as {seen[normal]}", row))
                continue
            seen[normal] = key
            split = fixed_split or _split_of(normal, config.test_fraction)
            rows.append({**row, "split": split, "source": name})
    if not rows:
        reasons = sorted({reject.reason for reject in rejects}) or ["it is empty"]
        origin = config.path or config.hub_id
        raise InputError(
            f"no usable question among {keys_in} lines of {str(origin)!r} ({', '.join(reasons)}); "
            f"give a file in the published shape of {config.kind}"
        )
    return Outcomes(rows, rejects, keys_in, len(rows))


def _origins(
    config: Gsm8kSource | HotpotSource,
) -> Iterator[tuple[str, Split | None, Iterator[tuple[str, Record | Reject]]]]:
    """(name, split or None for "by hash", records), tests first."""
    if config.test_path is not None:
        # Keys must differ even if both files have the same name.
        same = config.path is not None and config.path.name == config.test_path.name
        name = f"test:{config.test_path.name}" if same else config.test_path.name
        yield name, "test", read_jsonl(config.test_path, config.test_limit, name=name)
    fixed: Split | None = "train" if config.test_path is not None else None
    if config.path is not None:
        yield config.path.name, fixed, read_jsonl(config.path, config.limit)
    else:
        assert config.hub_id is not None and config.revision is not None
        records = read_hub(config.hub_id, config.revision, config.hub_config, config.hub_split, config.limit)
        yield f"{config.hub_id}@{config.revision}", fixed, records


def _row(key: str, record: Record, config: Gsm8kSource | HotpotSource) -> dict[str, Any] | Reject:
    try:
        return _ROW_OF[config.kind](record)
    except BadRow as bad:
        return Reject(key, "quarantined", bad.reason, bad.detail, record)


def _split_of(normal: str, test_fraction: float) -> Split:
    """By hash: a question's split depends neither on its place in the file nor on `limit`."""
    return "test" if int(sha256_text(f"split|{normal}")[:8], 16) < test_fraction * 16**8 else "train"
