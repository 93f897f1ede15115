"""The one number that an answer states: in further notations, in equations, and none where several are listed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.metrics.answers import is_correct, read_answer
from agentflow.metrics.numbers import parse_number, read_number, sole_number


@pytest.mark.parametrize(
    "text, value",
    [
        ("12 000", 12_000),
        ("12\u00a0000", 12_000),
        ("1\u2009234\u2009567.5", Fraction("1234567.5")),
        ("1\u202f234", 1234),
        ("$12 000", 12_000),
        ("1.5 million", 1_500_000),
        ("$1.5 million dollars", 1_500_000),
        ("2 Billion", 2 * 10**9),
        ("3 hundred thousand", 300_000),
        ("7 trillions", 7 * 10**12),
        ("1/2 million", 500_000),
        ("1.5\\text{ million}", 1_500_000),
        ("$5k", 5000),
        ("€1.5M", 1_500_000),
        ("3½", Fraction(7, 2)),
        ("3 ½", Fraction(7, 2)),
        ("½", Fraction(1, 2)),
        ("13⅔", Fraction(41, 3)),
        ("1⁄2", Fraction(1, 2)),
        ("10³", 1000),
        ("2·10⁻³", Fraction(1, 500)),
        ("–5", -5),
        ("$–5", -5),
        ("–$5", -5),
        ("\\boxed{\\textbf{\\text{72}}}", 72),
    ],
)
def test_a_number_is_read_in_this_notation(text, value):
    assert parse_number(text) == value
    assert read_number(f"It is {text}") == value
    assert is_correct(read_answer(f"Answer: {text} in all", "number"), str(value), [], "number")


@pytest.mark.parametrize(
    "text", ["1 23", "1234 567", "1 2345", "0 100", "12 000,5", "3 48/2", "12 000 00", "5 6", "±5"]
)
def test_this_is_no_single_number(text):
    assert parse_number(text) is None and sole_number(text) is None


@pytest.mark.parametrize(
    "text, value",
    [
        ("72 clips", 72),
        ("72 dollars per week", 72),
        ("$72.00 a week", 72),
        ("5k", 5),
        ("5 m", 5),
        ("an area of 25 cm^2", 25),
        ("25 m2", 25),
        ("9 g of CO2", 9),
        ("x = 72", 72),
        ("48 + 24 = 72", 72),
        ("72 = 48 + 24", 72),
        ("72 clips = 48 clips + 24 clips", 72),
        ("48 -24 = 24", 24),
        ("(48 + 24) / 2 = 72 / 2 = 36 dollars", 36),
        ("6 x 12 = 72", 72),
        ("20% of 50 = 10", 10),
        ("half of 50 = 25", 25),
        ("10/3 = 3.33", Fraction("3.33")),
        ("48 + 24 = 72 = 80 - 8", 72),
        ("72 (= 48 + 24)", 72),
        ("1/2 = 0.5", Fraction(1, 2)),
        ("72, so 72 dollars ($72.00)", 72),
        ("-5 degrees", -5),
        ("it fell by –5", -5),
    ],
)
def test_the_one_number_of_an_answer_is_found_among_its_words(text, value):
    number = sole_number(text)
    assert number is not None and number.value == value
    assert parse_number(number.text) == value


@pytest.mark.parametrize(
    "text, listed",
    [
        ("5 or 6", [5, 6]),
        ("between 5 and 6", [5, 6]),
        ("5 to 6", [5, 6]),
        ("3-5", [3, 5, 35]),
        ("3–5", [3, 5]),
        ("3 - 5", [3, 5, -2]),
        ("10:30", [10, 30]),
        ("5:15", [5, 15]),
        ("5 and 3", [5, 3]),
        ("3,4", [3, 4, 34]),
        ("1.234.567", [1, 1.234, 567]),
        ("5or6", [5, 6]),
        ("5x4", [5, 4, 20]),
        ("72 - 5", [72, 5, 67]),
        ("x=5, y=7", [5, 7]),
        ("x = 5 and y = 7", [5, 7]),
        ("5 = 7", [5, 7]),
        ("5 or 5+1 = 6", [5, 6]),
        ("13 or 7 = 20", [13, 7, 20]),
        ("72 - 5 = 60 + 7", [72, 5, 60, 7]),
        ("3 hours 30 minutes", [3, 30, 210]),
        ("3 boys and 4 girls, total 7", [3, 4, 7]),
        ("2 million 500 thousand", [2_000_000, 500_000]),
        ("5 12/2", [5, 6]),
        ("±5", [5, -5]),
        ("1 2 3", [1, 2, 3]),
        ("5; 6", [5, 6]),
        ("5 (6)", [5, 6]),
        ("no number", []),
        ("", []),
    ],
)
def test_an_answer_that_states_several_numbers_is_none_of_them(text, listed):
    assert sole_number(text) is None
    for gold in listed:
        assert not is_correct(text, str(gold), [], "number")
        assert not is_correct(read_answer(f"Answer: {text}", "number"), str(gold), [], "number")


@given(
    st.lists(st.integers(0, 99), min_size=2, unique=True), st.sampled_from([" ", ", ", " or ", "/ ", "; ", "-", " | "])
)
def test_no_list_of_numbers_is_right_for_one_of_its_members(numbers, between):
    listed = between.join(map(str, numbers))
    assert not any(is_correct(listed, str(number), [], "number") for number in numbers)


@given(st.text(alphabet="0123456789 =+-,.$½⁷\u00a0kM/^()x", max_size=12))
def test_the_text_of_a_number_says_its_value(text):
    number = sole_number(text)
    assert number is None or parse_number(number.text) == number.value
