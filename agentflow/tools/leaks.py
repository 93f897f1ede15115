"""Keeps the answers of public data sets out of search results: addresses to block, and hits that give the answer away.

In: the address of a hit, or its text and the question that is being answered. Out: whether it may be used. Two guards,
because neither is enough: a list of places that are known to carry data sets, and a look for the question and its gold
answer side by side, wherever that is. Nothing is fetched, and nothing is judged but text. Source: ours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote, urlsplit

from agentflow.metrics.answers import normalise

DATASET_MIRRORS = (
    # Places that carry the questions of public sets together with their answers.
    "huggingface.co",
    "hf.co",
    "hf-mirror.com",
    "modelscope.cn",
    "github.com",
    "github.io",
    "githubusercontent.com",
    "githack.com",
    "gitee.com",
    "cdn.jsdelivr.net/gh",
    "cdn.statically.io/gh",
    "kaggle.com",
    "paperswithcode.com",
    "storage.googleapis.com/natural_questions",
    "zenodo.org/record",
    "arxiv.org",
    "hotpotqa.github.io",
    "openreview.net",
    "semanticscholar.org",
    "chegg.com",
    "coursehero.com",
    "brainly.com",
)

QUESTION_SHARE = 0.8
# Of the question's word triples: a copy has 1.0, one with a few changed words stays above. The 1,886 paragraphs of 190
# real HotpotQA questions reach at most 0.71 (one question quotes its article), see docs/search.md.
_N = 3
_TRANSLATED = re.compile(r"(?:^|\.)([a-z0-9-]+)\.translate\.goog$")
_MAX_NESTING = 4
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")
# What a browser takes for a dot in a host's name.


@dataclass(frozen=True)
class Subject:
    """The question a tool is used for, and the answers that count as right."""

    question: str
    answers: tuple[str, ...]

    @cached_property
    def _triples(self) -> frozenset[tuple[str, ...]]:
        words = normalise(self.question).split()
        return frozenset(_grams(words, min(_N, len(words)))) if words else frozenset()

    @cached_property
    def _golds(self) -> tuple[str, ...]:
        return tuple(filter(None, map(normalise, self.answers)))

    def given_away_by(self, text: str) -> bool:
        """Whether `text` holds the question (QUESTION_SHARE of its word triples) and one of the answers.

        Upper and lower case, punctuation and articles do not count. Time is linear in the length of `text`.
        """
        if not self._triples:
            return False
        plain = normalise(text)
        words = plain.split()
        found = self._triples & set(_grams(words, len(next(iter(self._triples)))))
        if len(found) < QUESTION_SHARE * len(self._triples):
            return False
        return any(f" {gold} " in f" {plain} " for gold in self._golds)


def _grams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def is_blocked(url: str, patterns: Sequence[str]) -> bool:
    """Whether `url`, or an address it carries along (archives, caches, translations), is one of `patterns`.

    A pattern is a host, which stands for its sub-domains too, and may go on with the beginning of a path:
    "kaggle.com", "cdn.jsdelivr.net/gh". An address that cannot be read is blocked.
    """
    wanted = [pattern.lower().partition("/") for pattern in patterns]
    return any(_matches(host, path, wanted) for host, path in _addresses(url))


def _matches(host: str | None, path: str, wanted: Sequence[tuple[str, str, str]]) -> bool:
    if host is None:
        return bool(wanted)
    return any(
        (host == site or host.endswith(f".{site}")) and f"{path}/".startswith(f"/{start}/" if slash and start else "/")
        for site, slash, start in wanted
    )


def _addresses(url: str) -> Iterator[tuple[str | None, str]]:
    """(host, path) of an address and of every address inside it, lower case; host None where it cannot be read."""
    rest = unicodedata.normalize("NFKC", unquote(unquote(url)).translate(_DOTS)).strip().lower()
    for _ in range(_MAX_NESTING):
        try:
            parts = urlsplit(rest)
            host = (parts.hostname or "").rstrip(".")
        except ValueError:
            yield None, ""
            return
        # "huggingface-co.translate.goog" shows huggingface.co; a hyphen of the host itself is doubled.
        if shown := _TRANSLATED.search(host):
            host = shown[1].replace("--", "\0").replace("-", ".").replace("\0", "-")
        yield host, re.sub("/+", "/", parts.path or "/").rstrip("/")
        inner = re.search(r"https?:/+", rest[len(parts.scheme) + 1 :])
        if inner is None:
            return
        rest = "https://" + rest[len(parts.scheme) + 1 :][inner.end() :]
