"""Real data sets as question sources: a local JSONL or Parquet file, or a hub id at a pinned revision.

In: configurations. Out: `Loaded`: question rows with their split and the key of the line each came from, and a Reject
for every line that is none. All data sets give the same columns (`schemas.QUESTIONS`). No model is asked;
the network is used for a hub id only.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from agentflow.arrow_rows import ArrowRows, Picked
from agentflow.config import Frozen, LocalFile
from agentflow.errors import ConfigError, InputError
from agentflow.hygiene.exact import exact_twins, precedence
from agentflow.hygiene.text import Hashes, text_hash
from agentflow.records import Reject, canonical_json, sha256_text
from agentflow.schemas import QUESTIONS
from agentflow.sources import gsm8k, hotpotqa, musique, open_questions, toolrl, triviaqa, two_wiki
from agentflow.sources.fields import BadRow, Record
from agentflow.sources.parquet import is_parquet, read_parquet
from agentflow.sources.problems import normalise_question
from agentflow.sources.readers import read_hub, read_jsonl

Split = Literal["train", "test", "test_unseen"]
Row = dict[str, Any]
Records = Iterator[tuple[str, Record | Reject]]


class _FileSource(Frozen):
    """A real data set: a local file, or a hub id at a pinned revision."""

    path: Annotated[Path | None, LocalFile()] = None
    # JSONL (one object a line) or Parquet, told apart by name and first bytes.
    test_path: Annotated[Path | None, LocalFile()] = None
    # Test questions from a file of their own. None: `hub_test_split`, or `test_fraction` of the rows.
    hub_id: str | None = None
    revision: str | None = None
    # Commit hash (40 hex digits) of the hub's repository; a branch or tag may move and is refused.
    hub_config: str | None = None
    hub_split: str = "train"
    hub_test_split: str | None = None
    # Test questions from another split of the same hub id and revision.
    limit: int | None = Field(default=None, ge=1)
    # First lines of `path` (or rows of the hub) to read, bad ones included. None: all.
    test_limit: int | None = Field(default=None, ge=1)
    # The same for `test_path` or `hub_test_split`.
    test_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    # Share of questions that are tests, chosen by the hash of the question; unused where tests have a place of their
    # own.

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
        if self.hub_test_split is not None and (self.hub_id is None or self.test_path is not None):
            raise ConfigError(f"hub_test_split is {self.hub_test_split!r}; it needs a hub_id and no test_path")
        if self.test_limit is not None and not self.has_own_tests:
            raise ConfigError(
                f"test_limit is {self.test_limit} but there is no test_path or hub_test_split; give one, or `limit`"
            )
        return self

    @property
    def has_own_tests(self) -> bool:
        """Whether tests have a place of their own, and are no share of the rows."""
        return self.test_path is not None or self.hub_test_split is not None


class Gsm8kSource(_FileSource):
    """GSM8K (openai/grade-school-math): arithmetic word problems with worked solutions."""

    kind: Literal["gsm8k"] = "gsm8k"
    hub_config: str | None = "main"


class HotpotSource(_FileSource):
    """HotpotQA: multi-hop questions, with paragraphs and supporting facts where the file has them."""

    kind: Literal["hotpotqa"] = "hotpotqa"
    hub_config: str | None = "distractor"


class TwoWikiSource(_FileSource):
    """2WikiMultiHopQA: multi-hop questions with supporting facts and evidence triples."""

    kind: Literal["2wikimultihopqa"] = "2wikimultihopqa"


class MusiqueSource(_FileSource):
    """MuSiQue-Answerable: 2 to 4 hop questions with their decomposition and aliases."""

    kind: Literal["musique"] = "musique"


class TriviaQaSource(_FileSource):
    """TriviaQA: trivia questions with many aliases and the titles of evidence pages."""

    kind: Literal["triviaqa"] = "triviaqa"
    hub_config: str | None = "rc.nocontext"


class BamboogleSource(_FileSource):
    """Bamboogle: 2-hop questions written against search engines; small, for evaluation."""

    kind: Literal["bamboogle"] = "bamboogle"


class NqOpenSource(_FileSource):
    """NQ-open: questions of real users with lists of accepted answers."""

    kind: Literal["nq_open"] = "nq_open"


class ToolRlSource(_FileSource):
    """ToolRL's turns with gold calls: for GRPO only, since an answer check says nothing of a call."""

    kind: Literal["toolrl"] = "toolrl"
    test_fraction: float = Field(default=0.0, ge=0.0, le=1.0)


FileSource = (
    Gsm8kSource
    | HotpotSource
    | TwoWikiSource
    | MusiqueSource
    | TriviaQaSource
    | BamboogleSource
    | NqOpenSource
    | ToolRlSource
)
# A union by `kind`.
_ROW_OF: dict[str, Callable[[Record], Row]] = {
    "gsm8k": gsm8k.question_row,
    "hotpotqa": hotpotqa.question_row,
    "2wikimultihopqa": two_wiki.question_row,
    "musique": musique.question_row,
    "triviaqa": triviaqa.question_row,
    "bamboogle": open_questions.bamboogle_row,
    "nq_open": open_questions.nq_open_row,
    "toolrl": toolrl.question_row,
}


class Questions:
    """Question rows while they are read, and what is needed to compare them."""

    def __init__(self) -> None:
        self.rows = ArrowRows(QUESTIONS)
        self.keys: list[str] = []
        # The input key of each row [number of rows].
        self._digests = array("Q")
        self._evaluation = bytearray()

    def add(self, key: str, row: Row) -> None:
        """Add the row of input key `key`."""
        self.rows.append(row)
        self.keys.append(key)
        self._digests.append(text_hash(canonical_json(row)))
        self._evaluation.append(row["split"] != "train")

    @property
    def texts(self) -> Sequence[str]:
        """The questions themselves [number of rows]."""
        return self.rows.column("question")

    def texts_at(self, places: npt.NDArray[np.int64]) -> Sequence[str]:
        """The questions at `places`, not copied."""
        return Picked(self.texts, places)

    @property
    def digests(self) -> Hashes:
        """A hash of the content of each row [number of rows]."""
        return np.array(self._digests, dtype=np.uint64)

    @property
    def evaluation(self) -> npt.NDArray[np.bool_]:
        """Which rows are evaluation questions: all but those to train on [number of rows]."""
        return np.frombuffer(bytes(self._evaluation), dtype=np.bool_)


@dataclass(frozen=True)
class Loaded:
    """Questions as read, every line accounted for."""

    questions: Questions
    kept: npt.NDArray[np.int64]
    # Places of the rows that are no exact duplicates, ascending [number of questions].
    rejects: list[Reject]
    keys_in: int
    # Lines read: questions and rejects together.

    @property
    def rows(self) -> Sequence[Row]:
        """QUESTIONS columns [number of questions]."""
        return self.questions.rows.select(self.kept)


def read_sources(configs: Sequence[FileSource]) -> Loaded:
    """The questions of all sources, each with its split, an exact duplicate only once.

    Rejects: "quarantined" with the reason of `fields.BadRow` or of the file's reader; "dropped" as "leak_exact" for a
    training question that is a test question too, and as "duplicate" for any other that stands twice. Which of two
    stays depends on their content and not on their order. Raises InputError for a missing file or a source without one
    usable question.
    """
    found = Questions()
    rejects: list[Reject] = []
    keys_in = 0
    for number, config in enumerate(configs, start=1):
        keys_in += _read(config, f"{config.kind}:{number}:" if len(configs) > 1 else "", found, rejects)
    twins = exact_twins(found.texts, precedence(found.evaluation, found.digests))
    rejects += [_duplicate(found, index, int(twins[index])) for index in np.flatnonzero(twins >= 0).tolist()]
    return Loaded(found, np.flatnonzero(twins < 0), rejects, keys_in)


def _duplicate(found: Questions, index: int, twin: int) -> Reject:
    row, kept = found.rows[index], found.rows[twin]
    other = "" if row["answer"] == kept["answer"] else f", which has the answer {kept['answer'][:100]!r} instead"
    leak = row["split"] == "train" and kept["split"] != "train"
    detail = f"same question as {found.keys[twin]} ({kept['id']}, {kept['split']}){other}"
    return Reject(found.keys[index], "dropped", "leak_exact" if leak else "duplicate", detail, row)


def _read(config: FileSource, prefix: str, found: Questions, rejects: list[Reject]) -> int:
    """Add the questions of one source, duplicates included; returns the number of lines.

    `prefix` makes its keys differ from those of other sources.
    """
    before, bad = len(found.keys), len(rejects)
    keys_in = 0
    for name, fixed_split, records in _origins(config):
        for line, record in records:
            keys_in += 1
            key = prefix + line
            row = replace(record, key=key) if isinstance(record, Reject) else _row(key, record, config)
            if isinstance(row, Reject):
                rejects.append(row)
                continue
            split = fixed_split or split_of(row["question"], config.test_fraction)
            found.add(key, {**row, "split": split, "source": name})
    if len(found.keys) == before:
        reasons = sorted({reject.reason for reject in rejects[bad:]}) or ["it is empty"]
        origin = config.path or config.hub_id
        raise InputError(
            f"no usable question among {keys_in} lines of {str(origin)!r} ({', '.join(reasons)}); "
            f"give a file in the published shape of {config.kind}, one object a line"
        )
    return keys_in


def _origins(config: FileSource) -> Iterator[tuple[str, Split | None, Records]]:
    """(name, split or None for "by hash", records), tests first."""
    fixed: Split | None = "train" if config.has_own_tests else None
    if config.test_path is not None:
        # Keys must differ even if both files have the same name.
        same = config.path is not None and config.path.name == config.test_path.name
        name = f"test:{config.test_path.name}" if same else config.test_path.name
        yield name, "test", _file(config.test_path, config.test_limit, name)
    if config.path is not None:
        yield config.path.name, fixed, _file(config.path, config.limit, config.path.name)
        return
    assert config.hub_id is not None and config.revision is not None
    origin = f"{config.hub_id}@{config.revision}"
    place = (config.hub_id, config.revision, config.hub_config)
    if config.hub_test_split is not None:
        # Hub keys are "<hub id>:<row>": those of the test split say so.
        tests = read_hub(*place, config.hub_test_split, config.test_limit)
        yield origin, "test", ((f"test:{key}", record) for key, record in tests)
    yield origin, fixed, read_hub(*place, config.hub_split, config.limit)


def _file(path: Path, limit: int | None, name: str) -> Records:
    return (read_parquet if is_parquet(path) else read_jsonl)(path, limit, name=name)


def _row(key: str, record: Record, config: FileSource) -> Row | Reject:
    try:
        return _ROW_OF[config.kind](record)
    except BadRow as bad:
        return Reject(key, "quarantined", bad.reason, bad.detail, record)


def split_of(question: str, test_fraction: float) -> Split:
    """By hash: a question's split depends neither on its place in the file nor on how many are read."""
    normal = normalise_question(question)
    return "test" if int(sha256_text(f"split|{normal}")[:8], 16) < test_fraction * 16**8 else "train"
