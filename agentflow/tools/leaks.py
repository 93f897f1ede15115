"""Keeps the answers of public data sets out of search results: addresses to block, and hits that give the answer away.

In: the address of a hit, or its text and the question that is being answered. Out: whether it may be used. Two guards,
because neither is enough: a list of places that are known to carry data sets, and a look for the question and its gold
answer side by side, wherever that is. Nothing is fetched, and nothing is judged but text. Source: ours.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote, urlsplit

from agentflow.hygiene.text import without_hidden
from agentflow.metrics.answers import normalise

DATASET_MIRRORS = (
    # Places that carry the questions of public sets together with their answers.
    "huggingface.co",
    "hf.co",
    "hf.space",
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
    "zenodo.org",
    "arxiv.org",
    "hotpotqa.github.io",
    "curtis.ml.cmu.edu/datasets/hotpot",
    "nlp.cs.washington.edu/triviaqa",
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
_MARK = re.compile(r"[^\w\s]|_")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrt])")
# Of JSON, within texts that were cut out of it.
_TRANSLATED = re.compile(r"(?:^|\.)([a-z0-9-]+)\.translate\.goog$")
_MAX_NESTING = 4
_BARE = re.compile(
    r"(?<![a-z0-9.@_-])((?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24})\.?(?::\d{1,5})?(?=/+([^/?&#\s][^?&#\s]{0,200}))"
)
# An address without "https://" inside another one, as archives and caches write it. It must have a path: a name alone
# ("?ref=github.com", "/wiki/github.com") only says what a page is about.
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")
# What a browser takes for a dot in a host's name.


@dataclass(frozen=True)
class Subject:
    """The question a tool is used for, and the answers that count as right."""

    question: str
    answers: tuple[str, ...]

    @cached_property
    def _triples(self) -> tuple[frozenset[tuple[str, ...]], ...]:
        """The question's, for each of `_readings`."""
        texts = [reading.split() for reading in _readings(self.question)]
        return tuple(frozenset(_grams(words, min(_N, len(words)))) for words in texts)

    @cached_property
    def _golds(self) -> frozenset[str]:
        return frozenset(filter(None, (reading for answer in self.answers for reading in _readings(answer))))

    def given_away_by(self, text: str) -> bool:
        """Whether `text` holds the question (QUESTION_SHARE of its word triples) and one of the answers.

        Upper and lower case, punctuation and articles do not count, nor does what stands between question and answer: a
        sentence, the cells of a table, the fields of a CSV line or of JSON. Time is linear in the length of `text`.
        """
        readings = _readings(text)
        if not any(map(_holds, readings, self._triples)):
            return False
        return any(f" {gold} " in f" {reading} " for reading in readings for gold in self._golds)


def _readings(text: str) -> tuple[str, str]:
    """`text` in SQuAD's normal form, and the same with a space for every mark.

    Neither is enough: the first makes one word of "1,234" and of "U.S.", but also of two cells ("Carolina?","Stephen");
    the second keeps those apart.
    """
    whole = html.unescape(_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", text))
    plain = unicodedata.normalize("NFKC", without_hidden(whole))
    return normalise(plain), normalise(_MARK.sub(" ", plain))


def _holds(reading: str, triples: frozenset[tuple[str, ...]]) -> bool:
    if not triples:
        return False
    found = triples.intersection(_grams(reading.split(), len(next(iter(triples)))))
    return len(found) >= QUESTION_SHARE * len(triples)


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
    yield from ((_shown(found[1]), _plain_path(f"/{found[2]}")) for found in _BARE.finditer(rest))
    for _ in range(_MAX_NESTING):
        try:
            parts = urlsplit(rest)
            host = _shown(parts.hostname or "")
        except ValueError:
            yield None, ""
            return
        yield host, _plain_path(parts.path or "/")
        inner = re.search(r"https?:/+", rest[len(parts.scheme) + 1 :])
        if inner is None:
            return
        rest = "https://" + rest[len(parts.scheme) + 1 :][inner.end() :]


def _plain_path(path: str) -> str:
    return re.sub("/+", "/", path).rstrip("/")


def _shown(host: str) -> str:
    """The host whose page is shown.

    "huggingface-co.translate.goog" shows huggingface.co; a hyphen of the host itself is doubled.
    """
    name = host.rstrip(".")
    translated = _TRANSLATED.search(name)
    return name if translated is None else translated[1].replace("--", "\0").replace("-", ".").replace("\0", "-")
