"""A calculator for text that a model wrote: an expression in, one exact number out, or a typed refusal.

The text never reaches `eval` or a computer-algebra system. It is cut into tokens (numbers, operators, parentheses),
the numbers are set aside as exact fractions, and only then is what remains parsed; the tree is walked with an
allow-list. Sizes are bounded before anything is computed, so no input costs noticeable time or memory.
It knows no functions, constants, percentages or units: the equation finder rewrites those beforehand.

    evaluate("0.1+0.2") == Fraction(3, 10);  format_number(evaluate("1,234*2/3")) == "822.6666667"
"""

from __future__ import annotations

import ast
import re
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from agentflow.errors import ToolArgumentError
from agentflow.records import ToolResult
from agentflow.tools.contract import Tool, function_schema

MAX_CHARS = 300
MAX_DEPTH = 30
# Open parentheses at one place, and signs in a row: the parser itself recurses, so this is checked before it.
MAX_BITS = 16_384
# Of numerators and denominators between steps: (241/240)**360, a mortgage, needs 2,850.
MAX_ROOT_BITS = 4_096
# Of what a root is taken of: roots of larger numbers take noticeable time.
MAX_EXPONENT_DIGITS = 4
# Of the exponent in "1e308".
MAX_RESULT = 10**50
# A result must lie below this and, unless it is 0, above its inverse.
SIGNIFICANT = 10
# Digits a rounded result shows; all digits before the point and at least MIN_DECIMALS after it are always shown.
MIN_DECIMALS = 2

_TOKEN = re.compile(
    r"""(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?
                 | \.[0-9]+(?:[eE][+-]?[0-9]+)?)
      | (?P<operator>\*\*|//|[-+*/%×÷−])
      | (?P<parenthesis>[()])
      | (?P<space>[ \t\r\n]+)
      | (?P<name>[^\W\d]\w*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_SPELLING = {"×": "*", "÷": "/", "−": "-"}
_ROOT_CONTEXT = Context(prec=60)


def evaluate(expression: str) -> Fraction:
    """The exact value of `expression` (roots that are not rational: to 60 digits).

    Allowed: decimal numbers (also `1,234` and `1e3`), + - * / // % **, signs, parentheses, × ÷ −.
    Raises ToolArgumentError with a short reason for everything else, for division by zero and for sizes out of bounds.
    """
    numbers: list[Fraction] = []
    source = _prepare(expression, numbers)
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolArgumentError("not a valid expression") from None
    value = _value(tree.body, numbers)
    if abs(value) >= MAX_RESULT:
        raise ToolArgumentError("too large")
    if value and abs(value) * MAX_RESULT <= 1:
        raise ToolArgumentError("too small")
    return value


def format_number(value: Fraction) -> str:
    """`value` as plain decimal text: "24", "0.3", "-2.5", "0.3333333333"; never "1e3", "24.0" or "-0".

    Rounded half to even to 10 significant digits; digits before the point are never rounded away.
    """
    if value.denominator == 1:
        return str(value.numerator)
    places = max(SIGNIFICANT - _digits_before_point(abs(value)), MIN_DECIMALS)
    scaled = round(abs(value) * Fraction(10) ** places)
    digits = str(scaled).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and scaled else text


class Calculator(Tool):
    """`Calculator(expression)`: the value of an arithmetic expression."""

    name = "Calculator"
    primary = "expression"
    timeout_s = 5.0
    max_result_chars = 80

    @property
    def schema(self) -> dict[str, Any]:
        description = "Computes an arithmetic expression exactly: numbers, + - * / // % **, parentheses."
        expression = {
            "type": "string",
            "description": "The expression, for example 48/2 or (3+4)*1.5.",
            "minLength": 1,
            "maxLength": MAX_CHARS,
        }
        return function_schema(self.name, description, {"expression": expression})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(text=format_number(evaluate(arguments["expression"])))


# ---------------------------------------------------------------- text -> tree
def _prepare(expression: str, numbers: list[Fraction]) -> str:
    """Python source in which the i-th number stands as the literal i; fills `numbers`. Raises ToolArgumentError."""
    if len(expression) > MAX_CHARS:
        raise ToolArgumentError(f"too long: {len(expression)} characters, at most {MAX_CHARS}")
    pieces: list[str] = []
    depth = signs = 0
    for match in _TOKEN.finditer(expression):
        kind, text = match.lastgroup, match.group()
        if kind == "space":
            continue
        if kind in ("name", "other"):
            raise ToolArgumentError(f"not allowed: {text[:20]!r}")
        signs = signs + 1 if kind == "operator" else 0
        depth += {"(": 1, ")": -1}.get(text, 0)
        if max(depth, signs) > MAX_DEPTH:
            raise ToolArgumentError("nested too deeply")
        if kind == "number":
            pieces.append(str(len(numbers)))
            numbers.append(_number(text))
        else:
            pieces.append(_SPELLING.get(text, text))
    if not pieces:
        raise ToolArgumentError("empty expression")
    return " ".join(pieces)


def _number(text: str) -> Fraction:
    exponent = re.split("[eE]", text)[1:]
    if exponent and len(exponent[0].lstrip("+-").lstrip("0")) > MAX_EXPONENT_DIGITS:
        raise ToolArgumentError("too large")
    return _bounded(Fraction(text.replace(",", "")))


# ---------------------------------------------------------------- tree -> value
def _value(node: ast.expr, numbers: list[Fraction]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return numbers[node.value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, numbers)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        return _bounded(_binary(node.op, left, right))
    raise ToolArgumentError(f"not allowed: {type(node).__name__.lower()}")


def _binary(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Pow():
            return _power(left, right)
    if not isinstance(operator, ast.Div | ast.FloorDiv | ast.Mod):
        raise ToolArgumentError(f"not allowed: {type(operator).__name__.lower()}")
    if not right:
        raise ToolArgumentError("division by zero")
    if isinstance(operator, ast.Div):
        return left / right
    return Fraction(left // right) if isinstance(operator, ast.FloorDiv) else left % right


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if not base:
        if exponent < 0:
            raise ToolArgumentError("division by zero")
        return Fraction(0 if exponent else 1)
    if exponent.denominator != 1:
        return _root(base, exponent)
    if abs(base) == 1:
        return base if exponent % 2 else Fraction(1)
    if _bits(base) * abs(exponent) > MAX_BITS:
        raise ToolArgumentError("too large")
    return base**exponent.numerator


def _root(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** (p/q): exact if the root of numerator and denominator is whole, otherwise to 60 digits."""
    if base < 0:
        raise ToolArgumentError("root of a negative number")
    if _bits(base) > MAX_ROOT_BITS or _bits(base) * abs(exponent) > MAX_BITS or _bits(exponent) > MAX_DEPTH * 4:
        raise ToolArgumentError("too large")
    p, q = exponent.numerator, exponent.denominator
    if q <= 64:
        roots = [_whole_root(part, q) for part in (base.numerator, base.denominator)]
        if roots[0] is not None and roots[1] is not None:
            return Fraction(roots[0], roots[1]) ** p
    with_base, with_exponent = (
        _ROOT_CONTEXT.divide(Decimal(part.numerator), Decimal(part.denominator)) for part in (base, exponent)
    )
    return Fraction(_ROOT_CONTEXT.power(with_base, with_exponent))


def _whole_root(number: int, degree: int) -> int | None:
    """The whole number whose `degree`-th power is `number` (> 0), None if there is none. Newton, from above."""
    guess = 1 << -(-number.bit_length() // degree)
    while (better := ((degree - 1) * guess + number // guess ** (degree - 1)) // degree) < guess:
        guess = better
    return guess if guess**degree == number else None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise ToolArgumentError("too large")
    return value


def _digits_before_point(value: Fraction) -> int:
    """Digits of the whole part, or minus the zeros after the point: 12.5 -> 2, 0.25 -> 0, 0.0025 -> -2."""
    # Never the digits of numerator or denominator: Python refuses to print integers as long as a fraction's may be.
    if value >= 1:
        return len(str(value.numerator // value.denominator))
    zeros = len(str(value.denominator // value.numerator)) - 1
    return 1 - zeros if value * 10**zeros == 1 else -zeros
