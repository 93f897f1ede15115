"""Wrong arithmetic is recorded; correcting it changes the wrong result and nothing else, and can be undone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.insertion.contradictions import MAX_CORRECTIONS, contradictions, correct, undo
from agentflow.insertion.equations import find_equations


def corrected(text: str) -> str:
    result = correct(text)
    assert result is not None
    assert undo(*result) == text
    return result[0]


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("5*3 = 16 pens", "5*3 = 15 pens"),
        ("It cost $1,234 * 2 = $2,469.", "It cost $1,234 * 2 = $2,468."),
        ("10/50 = 25%", "10/50 = 20%"),
        ("10/3 = 3.4", "10/3 = 3.33"),
        ("10/4 = 3.5 cups", "10/4 = 2.5 cups"),
        ("5 - 8 = 3", "5 - 8 = -3"),
        ("5 - 8 = -$4", "5 - 8 = -$3"),
        ("8 - 8 = -$1", "8 - 8 = $0"),
        (r"5*3 = \$16", r"5*3 = \$15"),
        (r"2/7 = 30\%", r"2/7 = 28.57\%"),
        ("2/7 = 30 percent", "2/7 = 28.57 percent"),
        ("5*3 = **16**", "5*3 = **15**"),
        (r"1{,}000 + 500 = 1{,}600", r"1{,}000 + 500 = 1{,}500"),
        ("1\u00a0000 + 500 = 1\u00a0600", "1\u00a0000 + 500 = 1\u00a0500"),
        (r"2\,000 * 2 = 5\,000", r"2\,000 * 2 = 4\,000"),
        ("1 000 + 500 = 1 500 euros", "1 000 + 500 = 1 500 euros"),
        ("2*2 = 5, 3*3 = 9 and 4*4 = 17", "2*2 = 4, 3*3 = 9 and 4*4 = 16"),
        ("all right: 2*2 = 4", "all right: 2*2 = 4"),
    ],
)
def test_the_calculators_result_takes_the_place_of_a_wrong_one_in_its_notation(wrong: str, right: str) -> None:
    assert corrected(wrong) == right
    assert all(equation.agrees for equation in find_equations(right))


def test_later_text_that_uses_the_wrong_number_stays_and_is_counted() -> None:
    text = "She has 5*3 = 16 pens. With 4 more that is 16+4 = 20, so 16 was not enough; 160 would be."
    result = correct(text)
    assert result is not None
    new, (found,) = result
    assert new == "She has 5*3 = 15 pens. With 4 more that is 16+4 = 20, so 16 was not enough; 160 would be."
    assert (found.stated, found.computed, found.action, found.later_uses) == ("16", "15", "corrected", 2)
    assert new[found.at :].startswith("15 pens")


def test_the_middle_of_a_chain_is_left_alone_because_it_is_result_and_operand_at_once() -> None:
    assert corrected("2+3 = 6*2 = 12") == "2+3 = 6*2 = 12"
    assert corrected("2+3 = 5*2 = 12") == "2+3 = 5*2 = 10"


def test_what_is_kept_is_recorded_too() -> None:
    text = "5*3 = 16, 16+4 = 20"
    (found,) = contradictions(text, find_equations(text))
    assert (found.expression, found.stated, found.computed) == ("5*3", "16", "15")
    assert (found.action, found.later_uses, undo(text, [found])) == ("kept", 1, text)


@pytest.mark.parametrize("text", ["13/2 = 7 1/2", "2*3.5 = 8½", "1e3*2 = 3e3", r"10/4 = \frac{1}{2}"])
def test_a_notation_that_cannot_be_kept_is_not_replaced_by_another(text: str) -> None:
    assert correct(text) is None
    (found,) = contradictions(text, find_equations(text))
    assert found.computed in ("6.5", "7", "2000", "2.5")


def test_what_cannot_be_corrected_is_not_half_corrected() -> None:
    assert correct("1/0 = 3 and 2*2 = 5") is None
    assert correct(" ".join(f"{i}+1 = {i + 2}." for i in range(MAX_CORRECTIONS + 1))) is None


@pytest.mark.parametrize(
    "refused", ["\\frac{1}{0}", "3 1/0", "0½ and 1/0", "9" * 60, "9" * 301, "9" * 5000, "1e99", "1,000" + ",000" * 20]
)
def test_a_number_that_the_calculator_refuses_is_no_later_use(refused: str) -> None:
    text = f"2+2 = 5 and so 5, {refused} or 5."
    (found,) = contradictions(text, find_equations(text))
    assert (found.expression, found.later_uses) == ("2+2", 2)


@given(st.text(alphabet="0123456789+-*/=%$,. xof\n", max_size=60) | st.text(max_size=40))
def test_any_text_is_corrected_so_that_it_can_be_had_back(text: str) -> None:
    result = correct(text)
    if result is not None:
        assert undo(*result) == text
        assert all(equation.agrees for equation in find_equations(result[0]))
        assert all(result[0][one.at :].startswith(one.computed) for one in result[1])
