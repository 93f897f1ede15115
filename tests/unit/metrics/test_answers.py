"""Answer checks: golden cases of SQuAD's EM and F1, numbers in every notation, readers, and real model answers."""

import ast
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.metrics.answers import (
    exact_match,
    is_correct,
    lenient_correct,
    normalise,
    read_answer,
    token_f1,
)
from agentflow.metrics.numbers import numbers_equal, parse_number, read_number
from benchmarks.notations import NOTATIONS

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


# ---------------------------------------------------------------- text
def test_case_punctuation_articles_and_spaces_do_not_count():
    assert normalise("  The  Eiffel-Tower, a\tview!") == "eiffeltower view"
    assert exact_match("the Beatles.", ["Beatles"])
    assert not exact_match("Beatles band", ["Beatles"])


def test_an_alias_is_as_good_as_the_gold_answer():
    assert exact_match("NYC", ["New York City", "nyc"])
    assert token_f1("NYC", ["New York City", "nyc"]) == 1.0


@pytest.mark.parametrize(
    "predicted, gold, f1",
    [
        ("New York", "New York City", 0.8),
        ("york york", "york", 2 / 3),
        ("Paris", "London", 0.0),
        ("", "London", 0.0),
        ("yes", "yes", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "yes", 0.0),
        ("noanswer", "no answer", 0.0),
        ("the", "a", 0.0),
        ("the", "The", 1.0),
        ("!", ",", 0.0),
        ("\\text{New York}", "New York City", 0.8),
    ],
)
def test_token_f1_counts_shared_words_and_takes_yes_and_no_as_a_whole(predicted, gold, f1):
    assert token_f1(predicted, [gold]) == pytest.approx(f1)


def test_without_gold_answers_nothing_is_right():
    assert token_f1("x", []) == 0.0 and not exact_match("x", [])


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    "a, b",
    [
        ("72.0", "72"),
        ("1,234", "1234"),
        ("$1,234.50", "1234.5"),
        ("50%", "50"),
        ("3/4", "0.75"),
        ("\\frac{3}{4}", "0.75"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("−5", "-5"),
        ("0.3333333333", "1/3"),
        ("72.", "72"),
        ("**72**", "72"),
        ("72 dollars", "72"),
        (".5", "0.50"),
        ("1{,}000", "1000"),
        ("007", "7"),
        ("\\frac12", "0.5"),
        ("\\frac1{2}", "1/2"),
        ("\\frac{ 1 }2", "1/2"),
        ("\\dfrac{1}{2}", "1/2"),
        ("\\tfrac12", "1/2"),
        ("-\\frac{3}{4}", "-0.75"),
        ("12\\frac{1}{2}", "12.5"),
        ("1\\tfrac12", "3/2"),
        ("3 3/8", "27/8"),
        ("2\\times10^{3}", "2000"),
        ("2 \\cdot 10^3", "2000"),
        ("2.5 × 10^{-3}", "0.0025"),
        ("-2*10^3", "-2000"),
        ("10^{3}", "1000"),
        ("2^{10}", "1024"),
        ("1.5e3", "1500"),
        ("\\boxed{72}", "72"),
        ("$\\boxed{\\frac{1}{2}}$.", "1/2"),
        ("\\fbox{$72$}", "72"),
        ("\\(72\\)", "72"),
        ("\\[72\\]", "72"),
        ("1,234\\%", "1234"),
        ("\\$1{,}234", "1234"),
        ("$\\$1{,}234.50$", "1234.5"),
        ("72\\text{ dollars}", "72"),
        ("72\\ \\textbf{dollars}.", "72"),
        ("\\mathbf{72}", "72"),
        ("\\approx 3.5", "3.5"),
    ],
)
def test_one_number_in_two_notations_is_equal(a, b):
    assert numbers_equal(a, b) and numbers_equal(b, a)


@pytest.mark.parametrize(
    "a, b",
    [("72", "73"), ("0.333", "1/3"), ("72", "seventy"), ("", ""), ("1,23", "123"), ("5", "-5"), ("1" * 99, "1")]
    + [("1\\frac{1}{2}", "5.5"), ("2\\times10^{3}", "2"), ("1.5e3", "1.5"), ("\\frac12", "12"), ("0^{-1}", "0")]
    + [("\\boxed{}", "0"), ("2 \\times 10", "20"), ("9^{999}", "9"), ("10^{3}", "10"), ("\\frac{1}{0}", "0")],
)
def test_different_numbers_and_texts_are_not(a, b):
    assert not numbers_equal(a, b)


@pytest.mark.parametrize(
    "text, last",
    [
        ("so 48 + 24 = 72 clips.", 72),
        ("between 10-12", 12),
        ("it is -3.", -3),
        ("5 - 3", 3),
        ("costs $1,200.", 1200),
        ("a 3/4 cup", Fraction(3, 4)),
        ("\\boxed{42}", 42),
        ("owes -$5 now", -5),
        ("no number", None),
        ("v1.2.3", None),
        ("3,4", 3),
        ("9" * 100, None),
        ("an area of 25 cm^2", 25),
        ("an area of 25\\text{ cm}^{2}.", 25),
        ("the speed 3\\times10^{8} m/s", 300_000_000),
        ("about 2 1/2 cups", Fraction(5, 2)),
        ("in step 3 48/2 clips", 24),
        ("for all x^2", None),
        ("so it is \\frac12", Fraction(1, 2)),
    ],
)
def test_the_last_number_of_a_text_is_read(text, last):
    assert read_number(text) == last


# ---------------------------------------------------------------- readers
@pytest.mark.parametrize(
    "text, answer",
    [
        ("so.\nAnswer: 72", "72"),
        ("<answer>72</answer>", "72"),
        ("<answer>72", "72"),
        ("#### 72", "72"),
        ("**Answer:** 72", "72"),
        ("thus \\boxed{72}.", "72"),
        ("A: 72\n", "72"),
        ("Answer: 48+24 = 72 clips", "72"),
        ("Answer: 72 clips in 2 months", "72 clips in 2 months"),
        ("Answer: 5 or 6", "5 or 6"),
        ("Answer: 72 = 48 + 24", "72"),
        ("Answer: 12 000 clips", "12 000"),
        ("Answer: about $1.5 million a year", "$1.5 million"),
        ("**Answer:**\n72", "72"),
        ("**Final Answer:**\n\n**72**", "72"),
        ("### Final Answer:\n72", "72"),
        ("#### Final Answer\n72", "72"),
        ("**Final Answer**\n\n72 clips\nDone.", "72"),
        ("####\n72", "72"),
        ("A:\n72", "72"),
        ("Answer:\n\\[\n72\n\\]", "72"),
        ("Answer:\n```\n72\n```", "72"),
        ("Answer: 72\n\n(Answer: see above)", "72"),
        ("Answer: 72\n\nQuestion: how many?\nAnswer:", "72"),
        ("Answer: 72\nAnswer:\nA:\n", "72"),
        ("\\boxed{72} is what I put into \\boxed{}", "72"),
        ("Answer: 72\nAnswer: unknown", "unknown"),
        ("Answer: 72\nAnswer: 5 or 72", "5 or 72"),
        ("Answer:\n\nAnswer:", ""),
        ("<answer>Answer: 72</answer>", "72"),
        ("<answer>Answer:\n72</answer>", "72"),
        ("Answer: 72\n<answer>Answer: </answer>\n5", "72"),
        ("so it is \\boxed{\\frac12}", "\\frac12"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("<answer>\\boxed{72}</answer>", "72"),
        ("Answer: unknown", "unknown"),
        ("The result is 72", None),
        ("", None),
        ("<answer></answer>", ""),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so \\boxed{2\\times10^{3}}", "2\\times10^{3}"),
        ("Answer: 2\\times10^{3} m", "2×10^3"),
        ("Answer: $\\frac12$", "$\\frac12$"),
    ],
)
def test_a_number_is_read_behind_the_last_marker(text, answer):
    assert read_answer(text, "number") == answer


def test_a_text_answer_is_read_as_it_stands():
    assert read_answer("I think.\nAnswer: the Port of Ost.\nBye", "text") == "the Port of Ost."
    assert read_answer("<answer>Answer: Ost</answer>", "text") == "Ost"
    assert read_answer("Answer:\n\nOst\nBye", "text") == "Ost"
    assert read_answer("Answer: Before", "text") == "Before"


@pytest.mark.parametrize(
    "text",
    ["\\boxed{\\text{Paris}}", "Answer: \\text{Paris}", "Answer: $\\mathrm{Paris}$", "Answer: \\textbf{\\text{Paris}}."]
    + ["<answer>\\mathbf{Paris}</answer>", "Answer: \\(\\boxed{\\text{ Paris }}\\)", "Answer: **\\emph{Paris}**"],
)
def test_what_latex_wraps_around_a_text_answer_does_not_count(text):
    assert is_correct(read_answer(text, "text"), "Paris", [], "text")
    assert not is_correct(read_answer(text, "text"), "Pari", [], "text")


def test_latex_spaces_part_words():
    assert is_correct("\\text{New}\\ \\text{York}", "New York", [], "text")


@pytest.mark.parametrize(
    "predicted, gold, kind, right",
    [
        ("72", "72", "number", True),
        ("72 clips", "72", "number", True),
        ("72 of 90", "72", "number", False),
        ("25\\text{ cm}^2", "25", "number", True),
        ("x = \\frac12", "0.5", "number", True),
        ("$2\\times10^{3}$ metres", "2000", "number", True),
        ("$72.00", "72", "number", True),
        ("unknown", "72", "number", False),
        (None, "72", "number", False),
        ("the harbour", "Harbour", "text", True),
        ("harbours", "Harbour", "text", False),
        (None, "Harbour", "text", False),
        ("", "", "number", False),
        ("5 or 6", "5", "number", False),
        ("3-5", "35", "number", False),
        ("10:30", "1030", "number", False),
        ("10:30", "10:30", "number", True),
        ("1,23", "123", "number", False),
        ("72 = 48 + 24", "72", "number", True),
        ("1.5 million", "1500000", "number", True),
        ("1.5 million", "1.5", "number", False),
        ("", "", "text", False),
    ],
)
def test_an_answer_is_judged_by_its_type(predicted, gold, kind, right):
    assert is_correct(predicted, gold, [], kind) is right


@pytest.mark.parametrize(
    "completion, gold, kind, right",
    [
        ("I add them up and get 72 clips", "72", "number", True),
        ("72 and then 80", "72", "number", False),
        ("Answer: 80. Or 72", "72", "number", False),
        ("She works at the Port of Ost, I believe.", "port of Ost", "text", True),
        ("She works at the Portal.", "Port", "text", False),
        ("Answer: It is in Ost", "Ost", "text", True),
        ("Ost? No. Answer: Lund", "Ost", "text", False),
        ("I have no idea.", "no", "text", False),
        ("Both are old. Yes, they are", "yes", "text", True),
        ("", "72", "number", False),
        ("anything", "", "text", False),
    ],
)
def test_an_untrained_model_is_read_leniently_but_not_blindly(completion, gold, kind, right):
    assert lenient_correct(completion, gold, [], kind) is right


@pytest.mark.parametrize("alias", [",", "...", "The", "a", " "])
@pytest.mark.parametrize("predicted", ["", " ", "!", "an", "..", "\\text{}"])
def test_no_empty_answer_is_right_whatever_the_aliases(predicted, alias):
    assert not is_correct(predicted, "Robert Kardashian", ["Robert Shapiro", alias], "text")
    assert token_f1(predicted, ["Robert Kardashian", alias]) == 0.0


@pytest.mark.parametrize("predicted, gold", [("a.", "A"), ("the the", "The The"), (" ? ", "?"), ("**A**", "A")])
def test_a_gold_of_articles_or_punctuation_can_be_answered(predicted, gold):
    assert is_correct(predicted, gold, [], "text") and token_f1(predicted, [gold]) == 1.0


def test_a_text_answer_with_more_words_is_right_only_where_the_configuration_says_so():
    for predicted, gold, f1 in (("Paris, France", "Paris", 2 / 3), ("the United States of America", "U.S.", 0.0)):
        assert token_f1(predicted, [gold]) == pytest.approx(f1)
        assert not is_correct(predicted, gold, [], "text")
        assert is_correct(predicted, gold, [], "text", min_f1=0.6) is (f1 > 0.6)
        assert not is_correct(predicted, gold, [], "text", min_f1=0.7)
    assert is_correct("the United States of America", "U.S.", ["United States"], "text", min_f1=0.6)
    assert not is_correct("", "Paris", [","], "text", min_f1=0.01)
    assert not is_correct("York New", "New York", [], "text"), "an exact match keeps the order of the words"


def test_the_f1_that_is_enough_holds_for_texts_alone_and_is_a_share():
    assert not is_correct("72 or 73", "72", [], "number", min_f1=0.1)
    assert not is_correct("yes it is", "yes", [], "text", min_f1=0.1)
    for wrong in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="min_f1"):
            is_correct("Paris", "Paris", [], "text", min_f1=wrong)


@given(st.text(), st.text(), st.lists(st.text(), max_size=2), st.sampled_from(["number", "text"]))
def test_every_check_is_total(text, gold, aliases, kind):
    assert isinstance(is_correct(text, gold, aliases, kind), bool)
    assert isinstance(lenient_correct(text, gold, aliases, kind), bool)
    assert 0.0 <= token_f1(text, [gold, *aliases]) <= 1.0
    assert parse_number(text) is None or read_number(text) is not None
    assert not is_correct("", gold, aliases, kind)


@given(st.fractions(max_denominator=999) | st.decimals(-(10**9), 10**9, places=3))
def test_a_number_equals_itself_in_any_print(value):
    assert numbers_equal(str(value), str(value))
    assert is_correct(f"${value}" if value >= 0 else str(value), str(value), [], "number")


def test_hostile_lengths_cost_nothing():
    for text in ("\\boxed{" * 20_000, "<answer>" * 20_000, "1,111" * 20_000, "{" * 100_000, "9" * 200_000,
                 "\\frac{" * 20_000, "\\frac1" * 20_000, "$" * 100_000, "9^99" * 20_000, "1 1/" * 20_000, " " * 100_000,
                 "9" * 60 + "^99", "9" * 60 + "e99", "x\\times10^{" * 20_000, "1 " * 50_000, "\\frac{" + " " * 100_000,
                 "\\frac" + " " * 100_000, "\\boxed{" + "." * 100_000 + "x}",
                 "Answer: " + "$" * 50_000 + "x", "\\boxed{}" * 20_000, "Answer:\n" * 20_000,
                 "Answer:" + "\n" * 100_000, "Answer: 1" + " million" * 20_000, "Answer: " + "111 " * 50_000,
                 "Answer: " + "1 + " * 20_000 + "1 = 2",
                 "Answer: " + "1 = 2" * 20_000, "Answer: " + "(" * 100_000, "Answer: " + "see " * 50_000,
                 "Answer: " + "\\text{" * 20_000, "Answer: " + "½" * 50_000, "#" * 100_000, "answer" * 20_000,
                 "#### \n" * 20_000, "Answer: 9" + "⁹" * 50_000):  # fmt: skip
        assert isinstance(lenient_correct(text, "7", [], "number"), bool)


def test_real_model_answers_are_judged_as_their_authors_did():
    path = DATA / "gsm8k" / "model_solutions.jsonl"
    if not path.exists():
        pytest.skip(f"real model answers are not here: {path}")
    agreed = judged = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = read_answer(row.pop("ground_truth"), "number") or ""
        row.pop("question")
        for given_solution in row.values():
            solution = ast.literal_eval(given_solution) if isinstance(given_solution, str) else given_solution
            predicted = read_answer(solution["solution"], "number")
            agreed += is_correct(predicted, gold, [], "number") is solution["is_correct"]
            judged += 1
    assert agreed == judged == 1000


def test_every_way_to_write_a_number_in_the_benchmarks_list_is_judged_as_a_person_would() -> None:
    assert len(NOTATIONS) == 95
    wrong = [
        (gold, written)
        for gold, written, right in NOTATIONS
        if is_correct(read_answer(f"Answer: {written}", "number"), gold, [], "number") is not right
    ]
    assert wrong == []
