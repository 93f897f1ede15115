"""What the generators hand out: `Problem` (question with its solution) and `Solution`; and their seeded randomness.

Nothing here draws or solves; see `arithmetic` and `encyclopedia`.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from dataclasses import dataclass
from typing import TypedDict

from agentflow.records import sha256_text


class Lookup(TypedDict):
    """A fact that has to be looked up."""

    sentence: int  # index (see `split_sentences`) of the rationale's sentence BEFORE which the lookup is needed
    query: str  # what to search for


@dataclass(frozen=True)
class Solution:
    """How a question is solved."""

    rationale: str
    # Short reasoning, plain ASCII; it does not state the answer once more at its end.
    answer: str
    steps: tuple[tuple[str, str], ...] = ()
    # (expression, result) of every equation in order, e.g. ("48/2", "24") [number of equations]; () for two-hop.
    lookups: tuple[Lookup, ...] = ()
    # Facts to look up in order [number of hops]; () for arithmetic.


@dataclass(frozen=True)
class Problem:
    """A generated question with its gold answer and reference solution."""

    id: str
    # "<kind>-<12 hex of the question's sha256>".
    question: str
    answer: str
    template: str
    # Id of the template it was made from.
    rationale: str
    steps: tuple[tuple[str, str], ...] = ()
    lookups: tuple[Lookup, ...] = ()
    aliases: tuple[str, ...] = ()
    # Other accepted answers.


def question_id(kind: str, question: str) -> str:
    """`<kind>-<12 hex of sha256 of the question>`: stable whatever the order or number of rows."""
    return f"{kind}-{sha256_text(question)[:12]}"


def normalise_question(question: str) -> str:
    """The form in which two questions count as identical: NFKC, case folded, one space between words."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", question)).strip().casefold()


def seeded(*parts: object) -> random.Random:
    """A random generator that depends on `parts` only (their text), the same on every machine and in every process."""
    text = "|".join(str(part) for part in parts)
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
