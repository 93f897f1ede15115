"""What the local teacher knows: a question in, a solution (right or, on purpose, wrong) out.

Two sources: the solvers of the generated problems (`agentflow.sources`), and a `known` JSONL file of recorded
solutions to real questions, one a line:

    {"question": "Natalia sold clips ...", "rationale": "In May she sold 48/2 = 24 ...", "answer": "72",
     "lookups": [{"sentence": 0, "query": "..."}]}

`rationale` and `lookups` may be missing. A line of GSM8K or HotpotQA as published does as well: its solution, or the
chain of its supporting facts with a lookup before each paragraph. Recorded solutions are given as they are; generated
ones are wrong at a seeded rate. It does not reason: a question from nowhere else is unknown.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from agentflow.errors import InputError
from agentflow.sources import arithmetic, encyclopedia, gsm8k, hotpotqa
from agentflow.sources.fields import BadRow
from agentflow.sources.known import known_rows
from agentflow.sources.problems import Lookup, Solution
from agentflow.sources.sentences import sentences


@dataclass(frozen=True)
class Solved:
    """A solution and where it is from."""

    kind: Literal["arithmetic", "two_hop", "known"]
    solution: Solution


def normalise(text: str) -> str:
    """`text` with every run of white space as one space and none around it."""
    return " ".join(text.split())


class Knowledge:
    """Everything the local teacher can answer."""

    def __init__(self, *, world_seed: int = 0, known: Path | None = None) -> None:
        self.world = encyclopedia.World(world_seed)
        self.known = {} if known is None else read_known(known)
        self._solve = lru_cache(maxsize=50_000)(self._solve_uncached)

    def solve(self, question: str) -> Solved | None:
        """The solution of a question, None if it is unknown. White space does not count."""
        return self._solve(normalise(question))

    def _solve_uncached(self, question: str) -> Solved | None:
        if (recorded := self.known.get(question)) is not None:
            return Solved("known", recorded)
        if (solution := arithmetic.solve(question)) is not None:
            return Solved("arithmetic", solution)
        if (solution := encyclopedia.solve(question, self.world)) is not None:
            return Solved("two_hop", solution)
        return None

    def answer(self, question: str, *, wrong_rate: float, seed: int, sample: str) -> tuple[str, Solution | None]:
        """Label and solution of one sample: the label is the kind, "wrong" for an error on purpose, or "unknown".

        Whether a generated question is answered wrongly, and how, depends on (seed, question, sample) alone.
        """
        solved = self.solve(question)
        if solved is None:
            return "unknown", None
        if solved.kind == "known":
            return "known", solved.solution
        digest = hashlib.sha256(json.dumps([seed, normalise(question), sample]).encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= wrong_rate:
            return solved.kind, solved.solution
        wrong = self._wrong(normalise(question), solved, random.Random(int.from_bytes(digest[8:16], "big")))
        return ("wrong", wrong) if wrong is not None else (solved.kind, solved.solution)

    def _wrong(self, question: str, solved: Solved, rng: random.Random) -> Solution | None:
        if solved.kind == "arithmetic":
            return arithmetic.wrong_solution(question, rng)
        return encyclopedia.wrong_solution(question, self.world, rng)

    def lookups(self, question: str, given: list[str]) -> list[Lookup]:
        """Which of the `given` sentences need a lookup before them, and for what; [] where nothing is known.

        The teacher's own sentences are found in the given ones by their text, in order, so that indices fit the
        sentences given however they were split. A sentence that is not among them has its lookup left out.
        """
        solved = self.solve(question)
        if solved is None or not solved.solution.lookups:
            return []
        own = [normalise(sentence) for sentence in sentences(solved.solution.rationale)]
        candidates = [normalise(sentence) for sentence in given]
        found: list[Lookup] = []
        for lookup in solved.solution.lookups:
            if 0 <= lookup["sentence"] < len(own):
                position = _position(own[lookup["sentence"]], candidates)
                if position is not None:
                    found.append({"sentence": position, "query": lookup["query"]})
        return found


def _position(sentence: str, candidates: list[str]) -> int | None:
    """Index of the candidate that is `sentence`, else of the first that holds it or is its beginning."""
    if sentence in candidates:
        return candidates.index(sentence)
    for index, candidate in enumerate(candidates):
        if candidate and (sentence in candidate or sentence.startswith(candidate)):
            return index
    return None


def read_known(path: Path) -> dict[str, Solution]:
    """Recorded solutions by normalised question. Raises InputError naming the line; the first of two equals counts."""
    known: dict[str, Solution] = {}
    try:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    question, solution = _known_row(line, f"{path}:{number}")
                    known.setdefault(question, solution)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read known file {str(path)!r}: {error}; give an existing JSONL file in UTF-8"
        ) from error
    return known


def _known_row(line: str, where: str) -> tuple[str, Solution]:
    shape = 'a line is {"question": text, "answer": text, "rationale": text, "lookups": [{"sentence": 0, "query": ""}]}'
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {shape}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is {type(row).__name__}, not an object; {shape}")
    row = _published(row, where)
    fields = {name: row.get(name) or "" for name in ("question", "answer", "rationale")}
    for name, value in fields.items():
        if not isinstance(value, str) or (name != "rationale" and not value.strip()):
            raise InputError(f"{where} has {name} {row.get(name)!r}, allowed is non-empty text; {shape}")
    lookups = tuple(_lookup(item, where, shape) for item in row.get("lookups") or ())
    return normalise(fields["question"]), Solution(fields["rationale"], fields["answer"], lookups=lookups)


def _published(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A record of GSM8K or HotpotQA in the shape of this file; anything else as it is."""
    is_gsm8k = isinstance(row.get("answer"), str) and "####" in row["answer"]
    if not is_gsm8k and "supporting_facts" not in row:
        return row
    try:
        question = (gsm8k if is_gsm8k else hotpotqa).question_row(row)
    except BadRow as bad:
        raise InputError(f"{where} is no usable question ({bad.reason}): {bad.detail}") from bad
    return next(iter(known_rows([question])), question)


def _lookup(item: Any, where: str, shape: str) -> Lookup:
    match item:
        case {"sentence": int(sentence), "query": str(query)} if sentence >= 0:
            return {"sentence": sentence, "query": query}
    raise InputError(f"{where} has the lookup {item!r}; {shape}")
