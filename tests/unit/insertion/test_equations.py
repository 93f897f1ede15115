"""Equations are found as people write them, and nothing else is; measured on GSM8K's own annotations."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import ToolArgumentError
from agentflow.insertion.equations import Equation, find_equations
from agentflow.tools.calculator import evaluate, format_number

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


def only(text: str) -> Equation:
    (equation,) = find_equations(text)
    return equation


@pytest.mark.parametrize(
    "text, expression, stated",
    [
        ("In May she sold 48/2 = 24 clips.", "48/2", "24"),
        ("48/2=24", "48/2", "24"),
        ("$48/2 = $24", "48/2", "24"),
        ("$ 48 / 2 = $ 24.00.", "48/2", "24.00"),
        ("48/2=<<48/2=24>>24 clips", "48/2", "24"),
        ("1,234 * 2 = 2,468", "1234*2", "2,468"),
        ("0.2 x 50 = $10", "0.2*50", "10"),
        ("8x5=40", "8*5", "40"),
        ("3x$120 = $360", "3*120", "360"),
        ("6 × 7 = 42", "6*7", "42"),
        ("84 ÷ 2 = 42", "84/2", "42"),
        ("100 – 40 = 60", "100-40", "60"),
        ("10+15+3 = 28", "10+15+3", "28"),
        ("(2+3)*4 = 20", "(2+3)*4", "20"),
        ("2(3+4) = 14", "2*(3+4)", "14"),
        ("(3*4 = 12)", "3*4", "12"),
        ("3 * -2 = -6", "3*-2", "-6"),
        ("-5 + 3 = -2", "-5+3", "-2"),
        ("9^2 = 81", "9**2", "81"),
        ("$.50 * 4 = $2", ".50*4", "2"),
        # percentages
        ("25% of 80 = 20", "25/100*80", "20"),
        ("20 percent of 50 = 10", "20/100*50", "10"),
        ("200 * 15% = 30", "200*(15/100)", "30"),
        ("100% - 25% = 75%", "100-25", "75%"),
        ("10/50 = 20%", "(10/50)*100", "20%"),
        ("10/50*100% = 20%", "10/50*100", "20%"),
        # fractions
        ("1/2 of 60 = 30", "1/2*60", "30"),
        ("½ of 60 = 30", "1/2*60", "30"),
        ("2 1/2 * 4 = 10", "(2+1/2)*4", "10"),
        ("1/2 + 1/3 = 5/6", "1/2+1/3", "5/6"),
        # units
        ("3*4 = 12 pens", "3*4", "12"),
        ("3 boxes * 4 pens/box = 12 pens", "3*4", "12"),
        ("30 hours / 2 hours/day =15 days", "30/2", "15"),
        ("20 dogs (all old) + 4 cats = 24 pets", "20+4", "24"),
        # LaTeX and Markdown
        (r"\frac{48}{2} = 24", "48/2", "24"),
        (r"\(3 \times \$4 = \$12\)", "3*4", "12"),
        (r"$5 \cdot 3 = 15$", "5*3", "15"),
        (r"5 \text{ pens} \times 3 = 15 \text{ pens}", "5*3", "15"),
        (r"5*3 = \boxed{15}", "5*3", "15"),
        ("**5 * 3 = 15**", "5*3", "15"),
        ("5 * 3 = **15**", "5*3", "15"),
        (r"$2\frac{1}{2} \times 4 = 10$", "(2+1/2)*4", "10"),
        (r"4 * 5 = \mathbf{20}", "4*5", "20"),
        (r"5 \mathrm{pens} \times 3 = 15", "5*3", "15"),
        # other notations of a number
        ("100 000 / 4 = 25 000", "100000/4", "25 000"),
        ("1\u202f234 * 2 = 2\u00a0468", "1234*2", "2\u00a0468"),
        ("1.5e3 * 2 = 3000", "1.5e3*2", "3000"),
        ("12 x 1 and 1/4 = 15", "12*(1+1/4)", "15"),
        # spoken
        ("48 divided by 2 is 24.", "48/2", "24"),
        ("3 times 4 equals 12", "3*4", "12"),
        ("8 plus 4 minus 2 equals 10", "8+4-2", "10"),
        # rounding
        ("10/3 = 3.33", "10/3", "3.33"),
        ("10/3 ≈ 3.3", "10/3", "3.3"),
        ("200/3 = 66.66", "200/3", "66.66"),
        # in a sentence
        ("The price of 3 shirts is 3*5 = 15 dollars", "3*5", "15"),
        ("- 5*3 = 15", "5*3", "15"),
        ("1. 5*3 = 15", "5*3", "15"),
        ("x = 10 - 5 = 5", "10-5", "5"),
        ("7-2=5 - so", "7-2", "5"),
    ],
)
def test_an_equation_is_found(text, expression, stated):
    equation = only(text)
    assert (equation.expression, equation.stated, equation.agrees) == (expression, stated, True)


@pytest.mark.parametrize(
    "text",
    [
        "x = 5", "2x + 5 = 15", "X*2 - $40 = $250", "M + 4 + 2 = 8", "n/2 = 7", "y=3", "on 10/12/2020 = today",
        "10-12 items", "pages 10-12 are 3", "2:3 = 4:6", "5+3 >= 8", "5+3 => 8", "3*4", "3*4 =", "= 12", "3*4 = twelve",
        "16,0000/10=16000", "0900-0130 = 0730", "6 hours = 360 minutes", "5 != 3", "", "a/b = 2",
    ],
)  # fmt: skip
def test_what_is_no_equation_is_left_alone(text):
    assert find_equations(text) == []


def test_the_call_belongs_right_behind_the_equals_sign():
    for text, before in [("so 48/2 = $24", "so 48/2 ="), ("48/2=24", "48/2="), ("48/2 is 24", "48/2 is")]:
        assert text[: only(text).insert_at] == before


def test_offsets_enclose_the_equation():
    text = "She paid $48/2 = $24 now, or 10/50 = 20% of it."
    assert [text[e.start : e.end] for e in find_equations(text)] == ["48/2 = $24", "10/50 = 20%"]


def test_a_chain_gives_a_call_for_each_stated_result():
    assert [(e.expression, e.stated) for e in find_equations("2+3*4 = 2+12 = 14")] == [("2+12", "14")]
    assert [(e.expression, e.stated) for e in find_equations("24/3 = 8*2 = 16")] == [("24/3", "8"), ("8*2", "16")]
    assert [(e.expression, e.stated) for e in find_equations("17-8 = 9, 9*4 = 36")] == [("17-8", "9"), ("9*4", "36")]


@pytest.mark.parametrize(
    "text, computed", [("5*3 = 16", 15), ("10 - 5*3 = 15", -5), ("5 + 3 * 2 = 16", 11), ("10/3 = 3.4", Fraction(10, 3))]
)
def test_a_wrong_result_is_reported_as_wrong(text, computed):
    equation = only(text)
    assert (equation.computed, equation.agrees) == (computed, False)


def test_what_the_calculator_refuses_has_no_value():
    assert (only("1/0 = 3").computed, only("1/0 = 3").agrees) == (None, False)


def test_a_wrong_result_behind_dropped_words_is_not_taken_for_an_equation():
    assert find_equations("half of 3 shirts + 5 hats = 40") == []


@given(st.text(alphabet="0123456789+-*/=()%$,. xof½<>\n\\{}", max_size=60) | st.text(max_size=60))
def test_any_text_gives_equations_inside_it(text):
    for equation in find_equations(text):
        assert 0 <= equation.start < equation.insert_at <= equation.end <= len(text)
        assert equation.stated and equation.stated in text
        if equation.computed is None:
            with pytest.raises(ToolArgumentError):
                evaluate(equation.expression)
        else:
            assert evaluate(equation.expression) == equation.computed


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from("+-*/"), st.sampled_from(["", " "]))
def test_every_plain_equation_is_found(a, b, operator, space):
    result = format_number(evaluate(f"{a}{operator}{b}"))
    equation = only(f"So it is {a}{space}{operator}{space}{b}{space}={space}{result} in all.")
    assert (equation.expression, equation.stated, equation.agrees) == (f"{a}{operator}{b}", result, True)


def test_hostile_lengths_cost_nothing():
    for text in (
        "=" * 50_000,
        "1+" * 50_000 + "=1",
        "(" * 50_000,
        "9" * 100_000 + "=1",
        "a " * 50_000 + ")",
        "1,1" * 30_000,
    ):
        assert len(find_equations(text)) <= 1


# ---------------------------------------------------------------- GSM8K
_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


def _without_annotations(answer: str) -> tuple[str, list[tuple[int, str]]]:
    """(text without `<<…>>`, [(offset of the result, expression)] of the annotations that hold an operator)."""
    plain, annotations, done = "", [], 0
    for match in _ANNOTATION.finditer(answer):
        plain += answer[done : match.start()]
        done = match.end()
        if re.search(r"[-+*/]", match[1].lstrip("-")):
            annotations.append((len(plain), match[1]))
    return plain + answer[done:], annotations


def test_gsm8ks_own_calls_are_found_again():
    path = DATA / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"real solutions are not here: {path}")
    annotated = recalled = found = right = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        text, annotations = _without_annotations(json.loads(line)["answer"].partition("\n####")[0])
        equations = find_equations(text)
        matched = set()
        for offset, expression in annotations:
            annotated += 1
            try:
                value = evaluate(expression)
            except ToolArgumentError:
                continue
            hits = [e for e in equations if e.insert_at <= offset <= e.end and e.computed == value]
            recalled += bool(hits)
            matched.update(hit.insert_at for hit in hits)
        found += len(equations)
        right += sum(e.agrees or e.insert_at in matched for e in equations)
    assert annotated > 6_000
    assert recalled / annotated >= 0.99, "measured 0.992"
    assert right / found >= 0.998, "measured 0.9985"
