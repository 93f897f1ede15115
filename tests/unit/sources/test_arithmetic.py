"""Generated word problems: solvable, exact, short, unique, and the same for the same seed."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.errors import ConfigError
from agentflow.insertion.equations import find_equations
from agentflow.sources import arithmetic
from agentflow.sources.arithmetic import TEMPLATES, TRAINED, UNSEEN, calculate, generate, solve, wrong_solution
from agentflow.sources.sentences import sentences
from agentflow.sources.word_lists import HE_NAMES, SHE_NAMES, THINGS

ALL = tuple(TEMPLATES)


def test_there_are_dozens_of_templates_and_twelve_to_train_on() -> None:
    assert len(TEMPLATES) >= 30 and len(TRAINED) == 12 and len(UNSEEN) >= 20
    assert set(TRAINED).isdisjoint(UNSEEN)
    assert len(set(SHE_NAMES + HE_NAMES)) >= 40 and len(set(THINGS)) >= 40


@pytest.mark.parametrize("template", ALL)
def test_every_generated_question_is_solved_as_it_was_made(template: str) -> None:
    for seed in (0, 1, 2):
        for problem in generate(seed, 12, [template]):
            solution = solve(problem.question)
            assert solution is not None
            assert (solution.rationale, solution.answer) == (problem.rationale, problem.answer)
            assert solution.steps == problem.steps


@pytest.mark.parametrize("template", ALL)
def test_questions_and_rationales_are_short_and_plain(template: str) -> None:
    for problem in generate(3, 20, [template]):
        assert 20 <= len(problem.question.split()) <= 45
        assert 16 <= len(problem.rationale.split()) <= 45
        assert problem.question.isascii() and problem.rationale.isascii()
        assert not set("{}<>") & set(problem.question + problem.rationale)
        assert 2 <= len(problem.steps) <= 3
        assert len(sentences(problem.rationale)) == len(problem.steps)


@pytest.mark.parametrize("template", ALL)
def test_every_equation_stands_in_its_sentence_and_holds(template: str) -> None:
    for problem in generate(4, 20, [template]):
        for (expression, result), sentence in zip(problem.steps, sentences(problem.rationale), strict=True):
            assert re.search(rf"(^|\s){re.escape(expression)} = {re.escape(result)}(?![\d.]\d)", sentence)
            assert str(calculate(expression)) == result or float(calculate(expression)) == float(result)
            assert "." not in result or TEMPLATES[template].decimals
            assert len(result.partition(".")[2]) <= 1
        assert problem.answer == problem.steps[-1][1]


def test_tool_insertion_finds_exactly_the_steps() -> None:
    for problem in generate(5, 3 * len(ALL), ALL):
        found = find_equations(problem.rationale)
        assert tuple((equation.expression, equation.stated) for equation in found) == problem.steps
        assert all(equation.agrees for equation in found)


@pytest.mark.parametrize("template", ALL)
def test_a_question_belongs_to_one_template_only(template: str) -> None:
    for problem in generate(6, 5, [template]):
        matching = [other.id for other, pattern in arithmetic._patterns() if pattern.fullmatch(problem.question)]
        assert matching == [template]


@given(st.integers(0, 10**9), st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_more_questions_only_append(seed: int, n: int, more: int) -> None:
    assert generate(seed, n + more, TRAINED)[:n] == generate(seed, n, TRAINED)


def test_a_row_depends_on_its_own_template_only() -> None:
    alone = {problem.question for problem in generate(7, 24, TRAINED)}
    assert generate(7, 1, TRAINED[:1])[0].question in alone
    assert generate(8, 24, TRAINED) != generate(7, 24, TRAINED)


def test_templates_take_turns_and_no_question_comes_twice() -> None:
    problems = generate(9, 600, TRAINED)
    assert set(Counter(problem.template for problem in problems).values()) == {50}
    assert len({problem.question for problem in problems}) == len({problem.id for problem in problems}) == 600


def test_excluded_problems_do_not_come_back_with_other_names() -> None:
    tests = generate(10, 60, TRAINED[:2])
    train = generate(11, 120, TRAINED[:2], exclude=tests)
    assert {(p.template, p.steps) for p in tests}.isdisjoint((p.template, p.steps) for p in train)


def test_exhausted_templates_are_named() -> None:
    everything = [
        problem for seed in range(40) for problem in generate(seed, 60, ["half_then_sum"])
    ]  # all 95 numbers this template has
    with pytest.raises(ConfigError, match="half_then_sum.*no new question"):
        generate(0, 1, ["half_then_sum"], exclude=everything)


@pytest.mark.parametrize("templates", [["nothing_such"], []])
def test_an_unknown_or_no_template_is_refused(templates: list[str]) -> None:
    with pytest.raises(ConfigError, match="give some of"):
        generate(0, 1, templates)


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_wrong_solution_differs_in_one_step_and_in_the_answer(seed: int) -> None:
    problem = generate(seed, 1, [ALL[seed % len(ALL)]])[0]
    wrong = wrong_solution(problem.question, random.Random(seed))
    false_steps = [expression for expression, result in wrong.steps if float(calculate(expression)) != float(result)]
    assert wrong.answer != problem.answer and len(false_steps) == 1
    assert wrong_solution(problem.question, random.Random(seed)) == wrong


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is the capital of France?",
        "Mia sold 0 clips at the market in April and then half as many clips in May.",
        # Singular and plural of different things, a divisor of zero, and a number without end.
        "One pen costs 3 dollars at the park. Mia buys 4 cups and pays with 50 dollars. "
        "How many dollars does Mia get back?",
        "36 rolls are shared equally by 0 children, and one of them is Anna. Later Anna gets 12 more from Ella. "
        "How many rolls does Anna have now?",
        f"The garden of Tina is {'9' * 5000} metres long and 14 metres wide. Every evening Tina walks once around "
        "the whole garden. How many metres is one walk?",
    ],
)
def test_questions_of_other_origin_have_no_solution(question: str) -> None:
    assert solve(question) is None
    with pytest.raises(ValueError, match="not a generated"):
        wrong_solution(question, random.Random(0))


@given(st.text(max_size=80))
def test_any_text_may_be_asked(text: str) -> None:
    assert solve(text) is None


def test_white_space_does_not_matter() -> None:
    problem = generate(12, 1, TRAINED)[0]
    assert solve("  " + problem.question.replace(" ", "\n ")) == solve(problem.question)


def test_flat_chains_are_exact() -> None:
    assert [str(calculate(text)) for text in ("48/2", "3+4*5", "10-2-3", "0.1+0.2", "7/2*4")] == [
        "24", "23", "5", "3/10", "14",
    ]  # fmt: skip
    for text in ("", "2**3", "(1+2)", "__import__('os')", "1e5", "-3", "١+١"):
        with pytest.raises(ValueError, match="flat chain"):
            calculate(text)
