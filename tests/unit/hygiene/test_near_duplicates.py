"""Near duplicates: decided on the true similarity, by content, and bounded."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agentflow.hygiene import near
from agentflow.hygiene.exact import precedence
from agentflow.hygiene.near import near_twins, shingles, similarity
from agentflow.hygiene.text import text_hash, words

VOCABULARY = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(500)]


def sentence(chance: random.Random, n: int = 30) -> str:
    return " ".join(chance.choice(VOCABULARY) for _ in range(n))


def dropped(texts: list[str], threshold: float, fixed: int = 0) -> dict[str, tuple[str, float]]:
    evaluation = np.arange(len(texts)) < fixed
    order = precedence(evaluation, np.array([text_hash(text) for text in texts], dtype=np.uint64))
    return {texts[n.index]: (texts[n.twin], n.similarity) for n in near_twins(texts, order, evaluation, threshold)}


def test_similarity_is_the_share_of_common_word_pairs() -> None:
    assert similarity(shingles("a b c d"), shingles("A, b c. e")) == pytest.approx(2 / 4)
    assert similarity(shingles("one"), shingles("One!")) == 1.0
    assert similarity(shingles("..."), shingles("...")) == 0.0


def test_what_is_dropped_agrees_with_all_pairs_compared() -> None:
    chance = random.Random(3)
    texts = [sentence(chance) for _ in range(60)]
    for text in list(texts):
        for changes in (1, 2, 4):
            parts = text.split()
            for _ in range(changes):
                parts[chance.randrange(30)] = chance.choice(VOCABULARY)
            texts.append(" ".join(parts))
    found = dropped(texts, 0.8)
    sets = {text: shingles(text) for text in texts}
    for text, (twin, score) in found.items():
        assert twin not in found and score >= 0.8 and score == similarity(sets[text], sets[twin])
    staying = [text for text in texts if text not in found]
    alike = [(a, b) for i, a in enumerate(staying) for b in staying[:i] if similarity(sets[a], sets[b]) >= 0.8]
    assert alike == [] and len(found) > 40


def test_the_same_is_dropped_in_any_order() -> None:
    chance = random.Random(4)
    texts = [sentence(chance) for _ in range(50)]
    texts += [f"{text} too" for text in texts[:20]] + [f"so {text} too" for text in texts[:10]]
    found = dropped(texts, 0.8)
    assert len(found) == 30
    for _ in range(3):
        chance.shuffle(texts)
        assert dropped(texts, 0.8) == found


def test_evaluation_questions_stay_even_if_alike() -> None:
    base = sentence(random.Random(5))
    found = dropped([base, f"{base} too", f"so {base}"], 0.8, fixed=2)
    assert list(found) == [f"so {base}"] and found[f"so {base}"][0] == base


def test_a_chain_of_look_alikes_is_not_dropped_as_a_whole() -> None:
    parts = sentence(random.Random(6), 60).split()
    chain = [" ".join(parts[i : i + 30]) for i in range(0, 30, 2)]
    found = dropped(chain, 0.8)
    assert 0 < len(found) < len(chain) - 3


def test_the_twin_of_a_question_is_found_among_hundreds_of_its_template() -> None:
    """2WikiMultiHopQA is made so: a template's own words fill the buckets, only the names tell its questions apart."""
    chance = random.Random(8)
    frame = "what is the date of birth of the director of the film {} that was released in the year before the {} war"
    texts = [frame.format(*(" ".join(chance.choices(VOCABULARY, k=3)) for _ in range(2))) for _ in range(1500)]
    twins = {f"{text} exactly": text for text in texts[:100]}
    chance.shuffle(mixed := [*texts, *twins])
    found = dropped(mixed, 0.8)
    assert [(one, other) for one, other in twins.items() if one not in found and other not in found] == []
    assert dropped([*twins, *texts], 0.8) == found


def test_a_bucket_of_look_alikes_costs_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MOST_COMPARED", 5)
    compared = 0

    def counting(one: near.Shingles, other: near.Shingles) -> float:
        nonlocal compared
        compared += 1
        return similarity(one, other)

    monkeypatch.setattr(near, "similarity", counting)
    base = " ".join(words(sentence(random.Random(7), 20)))
    texts = [f"{base} {sentence(random.Random(seed), 10)}" for seed in range(200)]
    assert dropped(texts, 0.95) == {} and 0 < compared <= 200 * 5
