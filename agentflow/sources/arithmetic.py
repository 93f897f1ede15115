"""Multi-step arithmetic word problems: draw them from templates with a seed, and solve them again from their text.

In: a seed and template ids, or a question. Out: `Problem`s, or the `Solution` of a recognised question. Example:

    Mia sold 48 clips at the market in April and then half as many clips in May. How many clips did Mia sell ...?
    In May Mia sold 48/2 = 24 clips. In April and May together Mia sold 48+24 = 72 clips.

It understands its own templates only; any other question gives None. Numbers are exact (Fraction), never floats.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from functools import cache

from agentflow.errors import ConfigError
from agentflow.sources.arithmetic_templates import TEMPLATES, TRAINED, UNSEEN, Template
from agentflow.sources.problems import Problem, Solution, question_id, seeded
from agentflow.sources.word_lists import DAYS, HE_NAMES, PLACES, SHE_NAMES, THINGS

__all__ = ["TEMPLATES", "TRAINED", "UNSEEN", "generate", "solve", "wrong_solution"]

KIND = "arithmetic"
_NAMES = SHE_NAMES + HE_NAMES
_SINGULARS = tuple(one for one, _ in THINGS)
_PLURALS = tuple(many for _, many in THINGS)
# Word slot to the words that may stand in it.
_WORDS: dict[str, tuple[str, ...]] = {
    "name": _NAMES, "other": _NAMES, "thing": _SINGULARS, "things": _PLURALS, "item": _SINGULARS, "items": _PLURALS,
    "place": PLACES, "day": DAYS, "day2": DAYS,
}  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")
_EQUATION = re.compile(r"<([^<>]+)>")
_OPERAND = re.compile(r"[a-z]\d?|\d+(?:\.\d+)?")
_NUMBER_TEXT = r"[1-9][0-9]{0,5}(?:\.[0-9])?"
# What may stand in a number slot of a question that is to be solved: bounded, never zero (it may be a divisor).
_ATTEMPTS = 2000
# Draws per row before the template counts as exhausted.


def generate(seed: int, n: int, templates: Sequence[str], *, exclude: Collection[Problem] = ()) -> list[Problem]:
    """`n` problems, taking the templates in turn [n].

    Row i depends on (seed, its template, i) alone, apart from redraws of an equal question, so a larger `n` only
    appends. No question occurs twice, and none has the template and numbers of a problem in `exclude` (names and
    things do not count, so that a training row is never a renamed test row).
    Raises ConfigError for an unknown template, for no template, and if the templates have no further questions.
    """
    unknown = [name for name in templates if name not in TEMPLATES]
    if unknown or (n > 0 and not templates):
        raise ConfigError(f"arithmetic templates {unknown or list(templates)!r}; give some of {list(TEMPLATES)}")
    taken = {(problem.template, problem.steps) for problem in exclude}
    seen: set[str] = set()
    problems: list[Problem] = []
    for index in range(n):
        template = TEMPLATES[templates[index % len(templates)]]
        for attempt in range(_ATTEMPTS):
            problem = _draw(template, seeded(KIND, seed, template.id, index, attempt))
            if problem and problem.question not in seen and (template.id, problem.steps) not in taken:
                break
        else:
            raise ConfigError(
                f"template {template.id!r} has no new question after {_ATTEMPTS} draws (row {index} of {n}); "
                "ask for fewer questions or give more templates"
            )
        seen.add(problem.question)
        problems.append(problem)
    return problems


def solve(question: str) -> Solution | None:
    """The solution of a generated question, recomputed from its text; None if no template matches."""
    recognised = _recognise(question)
    return recognised and _solution(*recognised)


def wrong_solution(question: str, rng: random.Random) -> Solution:
    """The solution with one step's result altered and carried on, so that the final answer is wrong.

    Raises ValueError if the question is not a generated one.
    """
    recognised = _recognise(question)
    right = recognised and _solution(*recognised)
    if recognised is None or right is None:
        raise ValueError(f"not a generated arithmetic question: {question!r}; ask `solve` first")
    slips = [(step, delta) for step in range(len(right.steps)) for delta in (-10, -3, -2, -1, 1, 2, 3, 10)]
    rng.shuffle(slips)
    for slip in slips:
        wrong = _solution(*recognised, slip)
        if wrong and wrong.answer != right.answer:
            return wrong
    raise AssertionError(f"no wrong solution of {question!r}")  # the last result + 1 always is one


def _recognise(question: str) -> tuple[Template, dict[str, str]] | None:
    """Template and slot values of a generated question."""
    question = " ".join(question.split())
    for template, pattern in _patterns():
        match = pattern.fullmatch(question)
        values = match and _complete(match.groupdict())
        if values:
            return template, values
    return None


def _draw(template: Template, rng: random.Random) -> Problem | None:
    """One problem of `template`, or None if its results are not the whole numbers they should be."""
    name, other = rng.sample(_NAMES, 2)
    thing, item = rng.sample(range(len(THINGS)), 2)
    day, day2 = rng.sample(DAYS, 2)
    values = {
        "name": name, "other": other, "place": rng.choice(PLACES), "day": day, "day2": day2,
        "thing": THINGS[thing][0], "things": THINGS[thing][1], "item": THINGS[item][0], "items": THINGS[item][1],
    }  # fmt: skip
    for slot, spec in template.numbers.items():
        low, high, step = (Fraction(str(part)) for part in (*spec, 1)[:3])
        values[slot] = _number(low + step * rng.randint(0, int((high - low) / step)), decimals=True) or ""
    solution = _solution(template, values)
    if solution is None:
        return None
    question = _fill(template.question, values)
    return Problem(
        id=question_id(KIND, question),
        question=question,
        answer=solution.answer,
        template=template.id,
        rationale=solution.rationale,
        steps=solution.steps,
    )


def _solution(template: Template, values: dict[str, str], slip: tuple[int, int] | None = None) -> Solution | None:
    """Render the steps; None if a result is not allowed. `slip` (step, delta) falsifies the result of one step."""
    values = dict(values)
    equations: list[tuple[str, str]] = []
    sentences: list[str] = []
    for index, step in enumerate(template.steps):
        found = _EQUATION.search(step)
        assert found, f"template {template.id!r}: no equation in {step!r}"
        expression = _OPERAND.sub(lambda operand: values.get(operand.group(), operand.group()), found.group(1))
        value = calculate(expression) + (slip[1] if slip and slip[0] == index else 0)
        result = _number(value, decimals=template.decimals)
        if result is None:
            return None
        values[f"r{index + 1}"] = result
        equations.append((expression, result))
        sentences.append(_fill(step[: found.start()] + f"{expression} = {result}" + step[found.end() :], values))
    return Solution(" ".join(sentences), equations[-1][1], tuple(equations))


def calculate(expression: str) -> Fraction:
    """Exact value of a flat chain such as "48/2" or "3+4*5": unsigned numbers with + - * /, no brackets.

    Raises ValueError for anything else and ZeroDivisionError for a division by zero.
    """
    if not re.fullmatch(r"\d+(\.\d+)?([-+*/]\d+(\.\d+)?)*", expression, re.ASCII):
        raise ValueError(f"not a flat chain of numbers: {expression!r}; use unsigned numbers and + - * /")
    total = Fraction(0)
    for term in re.findall(r"[-+]?[^-+]+", expression):
        sign = -1 if term[0] == "-" else 1
        product = Fraction(1)
        for operator, operand in re.findall(r"([*/]?)([\d.]+)", term):
            product = product / Fraction(operand) if operator == "/" else product * Fraction(operand)
        total += sign * product
    return total


def _number(value: Fraction, *, decimals: bool) -> str | None:
    """`value` as text: "24", with `decimals` also "4.5"; None below 1 (2 for whole results) or with more decimals."""
    if value.denominator == 1:
        return str(value) if value >= 2 else None
    if decimals and value > 1 and (value * 10).denominator == 1:
        return f"{value.numerator // value.denominator}.{value * 10 % 10}"
    return None


def _fill(text: str, values: dict[str, str]) -> str:
    return _SLOT.sub(lambda slot: values[slot.group(1)], text)


def _complete(groups: dict[str, str | None]) -> dict[str, str] | None:
    """All slot values that follow from the matched ones; None if singular and plural do not belong together."""
    values = {slot: text for slot, text in groups.items() if text is not None}
    for one, many in (("thing", "things"), ("item", "items")):
        if one in values:
            plural = _PLURALS[_SINGULARS.index(values[one])]
            if values.setdefault(many, plural) != plural:
                return None
        elif many in values:
            values[one] = _SINGULARS[_PLURALS.index(values[many])]
    return values


@cache
def _patterns() -> tuple[tuple[Template, re.Pattern[str]], ...]:
    """Every template with the pattern of its questions: a slot's first place is a group, the others refer to it."""
    return tuple((template, re.compile(_pattern(template.question))) for template in TEMPLATES.values())


def _pattern(question: str) -> str:
    parts: list[str] = []
    met: set[str] = set()
    position = 0
    for slot in _SLOT.finditer(question):
        name = slot.group(1)
        parts.append(re.escape(question[position : slot.start()]))
        choices = "|".join(sorted(_WORDS[name], key=len, reverse=True)) if name in _WORDS else _NUMBER_TEXT
        parts.append(f"(?P={name})" if name in met else f"(?P<{name}>{choices})")
        met.add(name)
        position = slot.end()
    return "".join(parts) + re.escape(question[position:])
