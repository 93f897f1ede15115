"""Evaluation rows (schemas.EVALUATIONS) -> accuracy, interval and rates per model, per split and per kind.

Failed rows (infrastructure) are in no denominator; they are counted apart. A model asked in several prompt styles
is reported by its better one, the fair choice for a base model that was never taught the format.
It compares no models and decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from agentflow.artifacts.artifact import Artifact
from agentflow.metrics.intervals import wilson
from agentflow.report.model import MODELS, Rows
from agentflow.schemas import EVALUATIONS

Summary = dict[str, Any]


def asked(evaluation: Artifact, columns: Sequence[str] = EVALUATIONS.names) -> Rows:
    """Rows of EVALUATIONS of all that was asked; failed questions, no rows of the artifact, stand behind the others.

    Raises CorruptArtifact.
    """
    failed = (reject["row"] for reject in evaluation.rejects() if reject["status"] == "failed")
    answered = evaluation.table().select(list(columns)).to_pylist()
    return [*answered, *({name: row[name] for name in columns} for row in failed)]


def _ci95(correct: int, n: int) -> list[float] | None:
    """95 % Wilson score interval [low, high], as JSON holds it; None without any question."""
    bounds = wilson(correct, n)
    return None if bounds is None else [round(bound, 4) for bound in bounds]


def summarise_rows(rows: Rows) -> Summary:
    """Numbers of one cell: rows of one model and one prompt style.

    `questions` is the denominator (rows that were scored), `failed` what could not be; rates are shares of
    `questions` and None where there is none.
    """
    scored = [row for row in rows if row["status"] == "ok" and row["correct"] is not None]
    n = len(scored)
    correct = sum(1 for row in scored if row["correct"])

    def share(hits: int) -> float | None:
        return round(hits / n, 4) if n else None

    return {
        "questions": n,
        "accuracy": share(correct),
        "ci95": _ci95(correct, n),
        "tool_call_rate": share(sum(1 for row in scored if (row["n_calls"] or 0) > 0)),
        "format_rate": share(sum(1 for row in scored if row["well_formed"])),
        "failed": len(rows) - n,
        "correct": correct,
        "mean_tokens": round(sum(row["n_tokens"] or 0 for row in scored) / n, 1) if n else None,
    }


def ordered_models(rows: Rows) -> list[str]:
    seen = {row["model"] for row in rows}
    return [model for model in MODELS if model in seen] + sorted(seen.difference(MODELS))


def _better(cells: Iterable[Summary]) -> Summary:
    """The cell with the highest accuracy; ties go to the one with more scored questions, then to the first."""
    return max(cells, key=lambda cell: (-1.0 if cell["accuracy"] is None else cell["accuracy"], cell["questions"]))


def _by_style(rows: Rows) -> dict[str, Rows]:
    styles: dict[str, Rows] = defaultdict(list)
    for row in rows:
        styles[row["prompt_style"]].append(row)
    return dict(sorted(styles.items()))


def _best_style(rows: Rows) -> Summary:
    return _better({**summarise_rows(part), "prompt_style": style} for style, part in _by_style(rows).items())


def summarise_evaluation(rows: Rows) -> dict[str, Summary]:
    """All splits together: `{model: {questions, accuracy, ci95, tool_call_rate, format_rate, failed, prompt_style}}`.

    Further keys: `correct` and `mean_tokens` (see `summarise_rows`).
    """
    return {model: _best_style([row for row in rows if row["model"] == model]) for model in ordered_models(rows)}


def breakdown(rows: Rows) -> list[Summary]:
    """One entry per split, kind, model and prompt style; `best` marks the model's better style in that cell."""
    result = []
    for split, kind in sorted({(row["split"], row["kind"]) for row in rows}):
        cell = [row for row in rows if (row["split"], row["kind"]) == (split, kind)]
        for model in ordered_models(cell):
            own = [row for row in cell if row["model"] == model]
            best = _best_style(own)["prompt_style"]
            for style, part in _by_style(own).items():
                place = {"split": split, "kind": kind, "model": model, "prompt_style": style, "best": style == best}
                result.append({**place, **summarise_rows(part)})
    return result
