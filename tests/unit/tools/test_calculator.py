"""The calculator: exact on arithmetic, a short typed refusal for everything else, and never any effort."""

import asyncio
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import ToolArgumentError
from agentflow.records import ToolCall
from agentflow.tools.calculator import MAX_CHARS, Calculator, evaluate, format_number
from agentflow.tools.contract import ToolBox


@pytest.mark.parametrize(
    "expression, result",
    [
        ("48/2", "24"), ("0.1+0.2", "0.3"), ("9999999999999999.0-9999999999999998.0", "1"), ("1,234*2", "2468"),
        ("1,234,567.5", "1234567.5"), ("6×7", "42"), ("84÷2", "42"), ("5−8", "-3"), ("2**10", "1024"),
        ("2**-2", "0.25"),
        ("7//2", "3"), ("-7%3", "2"), ("-2**2", "-4"), ("(3+4)*1.5", "10.5"), ("--5", "5"), (".5*4", "2"), ("5.", "5"),
        ("007+1", "8"), ("2e3", "2000"), ("25/100*28", "7"), ("4**.5", "2"), ("27**(1/3)", "3"), ("8**(2/3)", "4"),
        ("2**0.5", "1.414213562"), ("(1+0.05/12)**360", "4.467744314"), ("1**999999999", "1"), ("0**0", "1"),
        ("48 /\n 2", "24"), ("(-8)**3", "-512"), ("((241/240)**360)**(1/360)", "1.004166667"),
        ("(2**4000)**(1/64)/2**62", "1.414213562"),
    ],
)  # fmt: skip
def test_arithmetic_is_exact(expression, result):
    assert format_number(evaluate(expression)) == result


@pytest.mark.parametrize(
    "value, text",
    [
        (Fraction(1, 3), "0.3333333333"), (Fraction(-2, 3), "-0.6666666667"), (Fraction(5), "5"), (Fraction(0), "0"),
        (Fraction(1, 3000), "0.0003333333333"), (Fraction(99999999999, 10**11), "1"), (Fraction(5, 2), "2.5"),
        (Fraction(2 * 10**12, 3), "666666666666.67"), (Fraction(1, 8), "0.125"),
        (Fraction("123456789.5"), "123456789.5"),
        (Fraction("0.00000000125"), "0.00000000125"), (Fraction(10**20 * 3 + 1, 3), "100000000000000000000.33"),
        (Fraction("0.12345678905"), "0.123456789"), (Fraction("0.12345678915"), "0.1234567892"),
    ],
)  # fmt: skip
def test_numbers_print_in_one_plain_form(value, text):
    assert format_number(value) == text


@given(st.fractions(max_denominator=10**6))
def test_a_printed_number_reads_back_within_its_rounding(value):
    text = format_number(value)
    assert not text.startswith("-0") or "." in text
    assert abs(Fraction(text) - value) <= max(abs(value) / 10**9, Fraction(0))


ATTACKS = [
    ("9**9**9", "too large"),
    ("9**4000000", "too large"),
    ("(9**400000)*(9**400000)", "too large"),
    ("10**5000", "too large"),
    ("1e308*10", "too large"),
    ("1e400", "too large"),
    ("1e99999999999", "too large"),
    ("10**-400", "too small"),
    ("2**0.5**9999", None),
    ("9**9**-9**9", "too large"),
    ("(-8)**(1/3)", "root of a negative number"),
    ("*".join(["(1+7**-5000)**.5"] * 17), "too large"),
    ("*".join(["(1+7**-1400)**.5"] * 17), None),
    ("(" * 25 + "2" + ")**.7" * 25, None),
    ("1/0", "division by zero"),
    ("1//0", "division by zero"),
    ("1%0", "division by zero"),
    ("0**-1", "division by zero"),
    ("().__class__.__mro__[1].__subclasses__()", "not allowed: '.'"),
    ("__import__('os').system('id')", "not allowed: '__import__'"),
    ("open('/proc/self/environ').read()", "not allowed: 'open'"),
    ("f'{1:999999999}'", "not allowed: 'f'"),
    ("'%999999999d'%1", 'not allowed: "\'"'),
    ("lambda:1", "not allowed: 'lambda'"),
    ("True+1", "not allowed: 'True'"),
    ("１+１", "not allowed: '１'"),
    ("1_000*2", "not allowed: '_000'"),
    ("(" * 200, "nested too deeply"),
    ("(" * 100 + "1" + ")" * 100, "nested too deeply"),
    ("-" * 200 + "1", "nested too deeply"),
    ("-" * 20_000, "too long: 20000 characters, at most 300"),
    ("9" * 5_000, "too long: 5000 characters, at most 300"),
    ("9" * 300, "too large"),
    ("1+" * 140 + "1", None),
    ("2**" * 90 + "2", "too large"),
    ("1**" * 90 + "2", None),
    ("[1]*10**9", "not allowed: '['"),
    ("5<6", "not allowed: '<'"),
    ("2(3)", "not allowed: call"),
    ("(1)(2)", "not allowed: call"),
    ("1,2", "not allowed: ','"),
    ("1,23,456", "not allowed: ','"),
    ("2 3", "not a valid expression"),
    ("1+", "not a valid expression"),
    (")(", "not a valid expression"),
    ("*5", "not a valid expression"),
    ("()", None),
    ("2^3", "not allowed: '^'"),
    ("1 if 1 else 2", "not allowed: 'if'"),
    ("x:=5", "not allowed: 'x'"),
    ("1j", "not allowed: 'j'"),
    ("0x10", "not allowed: 'x10'"),
    ("1#2", "not allowed: '#'"),
    ("\x00", "not allowed: '\\x00'"),
    ("\ud800", "not allowed: '\\ud800'"),
    ("", "empty expression"),
    ("  ", "empty expression"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "expression, reason", ATTACKS, ids=[a[:24].encode("unicode_escape").decode() for a, _ in ATTACKS]
)
def test_an_attack_gives_a_number_or_a_typed_refusal_and_no_memory(expression, reason):
    tracemalloc.start()
    try:
        answer: object = evaluate(expression)
    except ToolArgumentError as error:
        answer = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer == reason if reason else isinstance(answer, Fraction | str)
    assert peak < 2_000_000


@given(st.text(alphabet="0123456789+-*/%().,eE ×x_", max_size=40) | st.text(max_size=40))
def test_any_text_gives_a_number_or_a_typed_refusal(text):
    try:
        printed = format_number(evaluate(text))
    except ToolArgumentError as error:
        assert 0 < len(str(error)) < 80
    else:
        assert len(printed) < 120 and Fraction(printed) is not None


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from(["+", "-", "*"]))
def test_it_agrees_with_integer_arithmetic(a, b, operator):
    expected = {"+": a + b, "-": a - b, "*": a * b}[operator]
    assert evaluate(f"{a}{operator}({b})") == expected


def test_as_a_tool_it_answers_or_says_why_not():
    box = ToolBox([Calculator()])
    answer = asyncio.run(box.run(ToolCall("Calculator", {"expression": "48/2"})))
    assert (answer.text, answer.error) == ("24", None)
    refused = asyncio.run(box.run(ToolCall("Calculator", {"expression": "1/0"})))
    assert (refused.text, refused.error) == ("error: division by zero", "division by zero")
    long = asyncio.run(box.run(ToolCall("Calculator", {"expression": "1" * (MAX_CHARS + 1)})))
    assert long.error == f"argument 'expression' must have at most {MAX_CHARS} characters"


def test_the_longest_result_is_never_cut():
    for expression in ("-(10**50-1)", "-(10**49)/3", "-(10**-49)/3"):
        assert len(format_number(evaluate(expression))) <= Calculator.max_result_chars


def test_a_result_is_printed_however_long_the_fraction_behind_it():
    assert format_number(evaluate("(241/240)**2000")) == "4088.855158"
    assert format_number(evaluate("(240/241)**2000")) == "0.0002445672349"
