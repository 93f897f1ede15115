"""The invented encyclopedia: unmistakable names, facts a search finds, two-hop questions solved as they were made."""

from __future__ import annotations

import random

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.errors import ConfigError
from agentflow.sources.encyclopedia import (
    RELATIONS,
    TEMPLATES,
    TRAINED,
    UNSEEN,
    World,
    generate,
    solve,
    wrong_solution,
)
from agentflow.sources.sentences import sentences

ALL = tuple(TEMPLATES)
WORLD = World(0)


def test_the_world_has_the_promised_size_and_is_the_same_for_the_same_seed() -> None:
    sizes = {kind: len(names) for kind, names in WORLD.entities.items()}
    assert sizes["person"] >= 120 and sizes["company"] + sizes["institute"] >= 60 and sizes["town"] >= 60
    assert World(0).facts == WORLD.facts and World(1).facts != WORLD.facts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_invented_words_differ_in_more_than_one_letter(seed: int) -> None:
    names = [name for kind, names in World(seed).entities.items() if kind != "goods" for name in names]
    words = {word for name in names for word in name.split() if word[0].isupper()}
    words -= {"Company", "Institute", "River", "Lake"}
    forms = [form for word in words for form in {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}]
    assert len(forms) == len(set(forms)) and len(set(names)) == len(names)
    family_names = [name.split()[1] for name in World(seed).entities["person"]]
    assert len(set(family_names)) == len(family_names)


def test_a_passage_is_one_short_sentence_about_its_title() -> None:
    passages = WORLD.passages()
    assert len(passages) == len(WORLD.facts) == len({passage["id"] for passage in passages})
    for passage in passages:
        assert passage["title"] in passage["text"] and not passage["title"].startswith("the ")
        assert len(passage["text"].split()) <= 20 and len(sentences(passage["text"])) == 1


def test_there_are_dozens_of_templates_and_the_trained_ones_use_every_relation() -> None:
    assert len(TEMPLATES) >= 24 and len(TRAINED) == 12 and set(TRAINED).isdisjoint(UNSEEN)
    trained = [TEMPLATES[name] for name in TRAINED]
    assert {t.wording for t in trained} == {t.wording for t in TEMPLATES.values()}
    used = {relation.id for t in trained for relation in (t.first, t.second)}
    assert used == set(RELATIONS) - {"governor"}


@pytest.mark.parametrize("template", ALL)
def test_every_generated_question_is_solved_as_it_was_made(template: str) -> None:
    for seed in (0, 1):
        world = World(seed)
        for problem in generate(seed, 8, [template], world):
            solution = solve(problem.question, world)
            assert solution is not None
            assert (solution.rationale, solution.answer, solution.lookups) == (
                problem.rationale,
                problem.answer,
                problem.lookups,
            )
            assert 18 <= len(problem.rationale.split()) <= 40
            assert len(problem.question.split()) <= 20


@pytest.mark.parametrize("template", ALL)
def test_the_second_fact_ends_in_the_answer_and_the_question_does_not_name_it(template: str) -> None:
    for problem in generate(2, 8, [template], WORLD):
        need1, fact1, need2, fact2 = sentences(problem.rationale)
        assert problem.answer in fact2 and problem.answer not in problem.question
        assert [lookup["sentence"] for lookup in problem.lookups] == [1, 3]
        # The query is copied from the sentence before the fact.
        assert problem.lookups[0]["query"] in need1 and problem.lookups[1]["query"] in need2
        texts = {passage["text"] for passage in WORLD.passages()}
        assert {fact1, fact2} <= texts


@pytest.mark.parametrize("stopwords", ["en", []])
def test_a_lexical_search_for_each_query_finds_its_fact_first(stopwords: str | list[str]) -> None:
    passages = WORLD.passages()
    index = bm25s.BM25()
    corpus = [f"{passage['title']}\n{passage['text']}" for passage in passages]
    index.index(bm25s.tokenize(corpus, stopwords=stopwords, show_progress=False), show_progress=False)
    problems = generate(3, 320, ALL, WORLD)
    wanted = [
        (lookup["query"], sentences(problem.rationale)[lookup["sentence"]])
        for problem in problems
        for lookup in problem.lookups
    ]
    queries = bm25s.tokenize([query for query, _ in wanted], stopwords=stopwords, show_progress=False)
    hits, scores = index.retrieve(queries, k=2, show_progress=False)
    wrong = [
        (query, passages[hit[0]]["text"])
        for (query, fact), hit, score in zip(wanted, hits, scores, strict=True)
        if passages[hit[0]]["text"] != fact or score[0] - score[1] < 0.1
    ]
    assert len(problems) >= 300 and wrong == []


def test_train_and_test_questions_start_from_different_entities() -> None:
    for kind in ("person", "company", "institute", "town", "book"):
        train, test = WORLD.starts(kind, "train"), WORLD.starts(kind, "test")
        assert set(train).isdisjoint(test) and len(train) + len(test) == len(WORLD.starts(kind))
        assert len(test) >= 10
    train_problems = generate(4, 120, TRAINED, WORLD, starts="train")
    test_problems = generate(4, 60, TRAINED, WORLD, starts="test")
    started = {problem.lookups[0]["query"] for problem in train_problems}
    assert started.isdisjoint(problem.lookups[0]["query"] for problem in test_problems)


@given(st.integers(0, 10**9), st.integers(1, 30), st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_more_questions_only_append_and_none_comes_twice(seed: int, n: int, more: int) -> None:
    problems = generate(seed, n + more, TRAINED, WORLD)
    assert problems[:n] == generate(seed, n, TRAINED, WORLD)
    assert len({problem.question for problem in problems}) == n + more


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_wrong_solution_states_an_untrue_fact_and_another_answer(seed: int) -> None:
    problem = generate(seed, 1, [ALL[seed % len(ALL)]], WORLD)[0]
    wrong = wrong_solution(problem.question, WORLD, random.Random(seed))
    texts = {passage["text"] for passage in WORLD.passages()}
    facts = [sentences(wrong.rationale)[index] for index in (1, 3)]
    assert wrong.answer != problem.answer and sum(fact not in texts for fact in facts) == 1
    assert wrong == wrong_solution(problem.question, WORLD, random.Random(seed))


def test_too_many_or_unknown_questions_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="has .* questions"):
        generate(0, 1000, TRAINED[:1], WORLD)
    for templates in (["nothing_such"], []):
        with pytest.raises(ConfigError, match="give some of"):
            generate(0, 1, templates, WORLD)


@given(st.text(max_size=80))
def test_questions_of_other_origin_have_no_solution(text: str) -> None:
    assert solve(text, WORLD) is None


def test_a_name_from_another_world_is_unknown() -> None:
    problem = generate(5, 1, TRAINED, World(1))[0]
    assert solve(problem.question, WORLD) is None
    with pytest.raises(ValueError, match="not a generated"):
        wrong_solution(problem.question, WORLD, random.Random(0))
