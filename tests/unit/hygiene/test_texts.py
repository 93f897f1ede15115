"""Words, skeletons and runs of words; exact twins whatever their order."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentflow.hygiene.exact import exact_twins, precedence
from agentflow.hygiene.text import HashedWords, skeleton, text_hash, words


def digests(texts: list[str]) -> np.ndarray:
    return np.array([text_hash(text) for text in texts], dtype=np.uint64)


def test_marks_case_and_width_of_characters_are_no_words() -> None:
    assert words("Ｍia sold $1,200.50 — HALF (3/4)!") == ["mia", "sold", "1,200.50", "half", "3", "4"]
    assert words("\ud800 …") == []


def test_invisible_characters_are_no_part_of_a_word() -> None:
    seen = "Café of the two seas"
    assert words("\u200b".join(seen)) == words("\u00ad\ufeff" + seen + "\u202e") == ["café", "of", "the", "two", "seas"]


def test_numbers_in_digits_and_in_words_are_alike_in_a_skeleton() -> None:
    one = skeleton(words("Ann has 25 red and 1/2 of the green pens."))
    other = skeleton(words("Ann has twenty-five red and half of the green pens."))
    assert skeleton(words("half a dozen")) == skeleton(words("a hundred")) == skeleton(["9"]) == ("#",)
    assert one == other == ("ann", "has", "#", "red", "and", "#", "of", "the", "green", "pens")


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=6), st.integers(1, 4))
def test_runs_are_those_of_each_text_and_equal_only_where_the_words_are(texts: list[list[str]], n: int) -> None:
    runs = HashedWords(texts).runs(n)
    expected = [(i, j, tuple(t[j : j + n])) for i, t in enumerate(texts) for j in range(len(t) - n + 1)]
    assert list(zip(runs.owners.tolist(), runs.starts.tolist(), strict=True)) == [(i, j) for i, j, _ in expected]
    by_hash: dict[int, set[tuple[str, ...]]] = {}
    for value, (_, _, run) in zip(runs.hashes.tolist(), expected, strict=True):
        by_hash.setdefault(value, set()).add(run)
    assert all(len(found) == 1 for found in by_hash.values())
    assert len(by_hash) == len({run for _, _, run in expected})


def test_of_exact_twins_an_evaluation_question_stays_whatever_the_order() -> None:
    texts = ["Which sea?", "which  SEA?", "Ｗhich sea?", "Which lake?", "which lake?"]
    evaluation = [False, False, True, False, False]
    staying = set()
    for seed in range(6):
        places = random.Random(seed).sample(range(5), 5)
        shuffled = [texts[i] for i in places]
        order = precedence(np.array([evaluation[i] for i in places]), digests(shuffled))
        twins = exact_twins(shuffled, order)
        staying.add(frozenset(shuffled[i] for i in range(5) if twins[i] < 0))
        assert all(twins[twin] < 0 for twin in twins if twin >= 0)
    assert len(staying) == 1 and "Ｗhich sea?" in staying.pop()


def test_nothing_has_no_twins() -> None:
    assert exact_twins([], precedence(np.zeros(0, dtype=bool), digests([]))).tolist() == []
