"""Equations found in reasoning, against what people wrote: GSM8K's own annotations.

In: `gsm8k/train.jsonl` in the folder of shared data beside the checkout. Out: recall and precision of `equations`; not
run where the file is missing. Nothing is timed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentflow.errors import ToolArgumentError
from agentflow.insertion.equations import Equation, find_equations
from agentflow.tools.calculator import evaluate
from benchmarks.row import Row

GSM8K = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "gsm8k"
ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
OPERATOR = re.compile(r"[-+*/]")


def rows() -> Iterator[Row]:
    """Every target's row."""
    yield from equation_rows(GSM8K / "train.jsonl")


@dataclass
class Found:
    """Counts over all solutions."""

    annotated: int = 0
    # Annotations that hold an operator.
    recalled: int = 0
    calls: int = 0
    annotated_calls: int = 0
    # Calls that match an annotation.
    true_calls: int = 0
    # Calls without an annotation whose expression evaluates to the number stated behind it, within printed rounding.


def equation_rows(path: Path) -> Iterator[Row]:
    """Recall against the annotations, and precision of the calls found."""
    what = "equations on GSM8K's training solutions: "
    if not path.is_file():
        yield Row.not_run(
            what + "recall and precision", "≥ 0.97, ≥ 0.98", "", f"no file {path.name} beside the checkout"
        )
        return
    found = Found()
    for line in path.read_text(encoding="utf-8").splitlines():
        _count(json.loads(line)["answer"].partition("\n####")[0], found)
    recall = found.recalled / found.annotated
    reason = f"{found.recalled:,} of the {found.annotated:,} annotations that hold an operator"
    yield Row.done(what + "recall", "≥ 0.97", round(recall, 4), "", recall >= 0.97, reason)
    right = found.annotated_calls + found.true_calls
    precision = right / found.calls
    reason = f"{right:,} of {found.calls:,} calls; {found.true_calls:,} of them are true and carry no annotation"
    yield Row.done(what + "precision", "≥ 0.98", round(precision, 4), "", precision >= 0.98, reason)


def _count(solution: str, found: Found) -> None:
    text, annotations = without_annotations(solution)
    equations = find_equations(text)
    matched: set[int] = set()
    for offset, expression in annotations:
        found.annotated += 1
        hits = _hits(equations, offset, expression)
        found.recalled += bool(hits)
        matched.update(hit.insert_at for hit in hits)
    found.calls += len(equations)
    found.annotated_calls += sum(equation.insert_at in matched for equation in equations)
    found.true_calls += sum(equation.agrees and equation.insert_at not in matched for equation in equations)


def _hits(equations: list[Equation], offset: int, expression: str) -> list[Equation]:
    """Equations whose result stands where the annotation's does, with its value."""
    try:
        value = evaluate(expression)
    except ToolArgumentError:
        return []
    return [one for one in equations if one.insert_at <= offset <= one.end and one.computed == value]


def without_annotations(solution: str) -> tuple[str, list[tuple[int, str]]]:
    """The text without `<<…>>`, and (offset of the result, expression) of those that hold an operator."""
    plain, annotations, done = "", [], 0
    for match in ANNOTATION.finditer(solution):
        plain += solution[done : match.start()]
        done = match.end()
        if OPERATOR.search(match[1].lstrip("-")):
            annotations.append((len(plain), match[1]))
    return plain + solution[done:], annotations
