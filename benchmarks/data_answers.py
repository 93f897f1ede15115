"""The answer check against people's verdicts, beside math-verify's: on model solutions, and on ways to write a number.

In: `gsm8k/model_solutions.jsonl` in the folder of shared data beside the checkout, and `notations`. Out: agreement of
each with the verdicts; not run where the file is missing. Nothing is timed.
"""

from __future__ import annotations

import ast
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentflow.metrics.answers import is_correct, read_answer
from benchmarks.data_insertion import GSM8K
from benchmarks.notations import NOTATIONS
from benchmarks.peers import REPO, JobFailed, NoPeer, json_of, peer_python
from benchmarks.row import Row

PEER = ["math-verify==0.9.0", "antlr4-python3-runtime==4.13.2"]


@dataclass(frozen=True)
class Graded:
    """One text that states an answer."""

    gold: str
    text: str
    is_correct: bool


def rows() -> Iterator[Row]:
    """Every target's row."""
    path = GSM8K / "model_solutions.jsonl"
    what = "answer check on 1,000 graded model solutions: agreement with is_correct"
    if path.is_file():
        yield from _both(what, "≥ 0.995", 0.995, list(graded(path)))
    else:
        yield Row.not_run(what, "≥ 0.995", "", f"no file {path.name} beside the checkout")
    written = [Graded(gold, f"Answer: {text}", right) for gold, text, right in NOTATIONS]
    what = f"answer check on {len(written)} ways to write a number (a list of our own): judged as a person would"
    yield from _both(what, "all", 1.0, written)


def _both(what: str, target: str, least: float, texts: list[Graded]) -> Iterator[Row]:
    answers = [read_answer(one.text, "number") or "" for one in texts]
    agreed = sum(
        is_correct(answer, one.gold, [], "number") is one.is_correct for one, answer in zip(texts, answers, strict=True)
    )
    share = agreed / len(texts)
    yield Row.done(what, target, round(share, 4), "", share >= least, f"{agreed:,} of {len(texts):,}")
    yield _math_verify(f"{what}, by {PEER[0].replace('==', ' ')}", texts, answers)


def graded(path: Path) -> Iterator[Graded]:
    """Every solution of every model."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = read_answer(row.pop("ground_truth"), "number") or ""
        del row["question"]
        for given in row.values():
            solution = ast.literal_eval(given) if isinstance(given, str) else given
            yield Graded(gold, solution["solution"], solution["is_correct"])


def _math_verify(what: str, texts: list[Graded], answers: list[str]) -> Row:
    """It at its best of three: given the whole text, or the answer as ours finds it, plain or as a formula."""
    readings = {
        "the whole text": [one.text for one in texts],
        "the answer as ours finds it": answers,
        "that as a formula": [answer if "$" in answer or "boxed" in answer else f"${answer}$" for answer in answers],
    }
    try:
        python = peer_python("math_verify", PEER)
        with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
            asked = Path(folder, "asked.jsonl")
            given = zip(texts, zip(*readings.values(), strict=True), strict=True)
            lines = (json.dumps({"gold": one.gold, "texts": ways}) for one, ways in given)
            asked.write_text("\n".join(lines), encoding="utf-8")
            script = str(REPO / "benchmarks" / "peer_math_verify.py")
            verdicts = json_of([str(python), "-I", script, str(asked)], folder)["verdicts"]
    except (NoPeer, JobFailed, subprocess.TimeoutExpired) as error:
        return Row.not_run(what, "", "", str(error))
    agreed = {
        reading: sum(verdict[at] is one.is_correct for one, verdict in zip(texts, verdicts, strict=True))
        for at, reading in enumerate(readings)
    }
    reason = "; ".join(f"given {reading}: {count:,} of {len(texts):,}" for reading, count in agreed.items())
    return Row.done(what, "", round(max(agreed.values()) / len(texts), 4), "", True, reason)
