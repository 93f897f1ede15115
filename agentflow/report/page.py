"""RunRecord and its summary -> the HTML page: one file, no script, no outside request.

Jinja2 with autoescape on; every text of a model, a search or a file passes the filter `shown` (in attributes
`plain`), which caps it and makes hidden characters visible. Only `pictures` and `shown` return markup, and both
escape what they are given.
"""

from __future__ import annotations

import json
import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from agentflow.report import pictures, samples
from agentflow.report.hygiene import hygiene_samples
from agentflow.report.insertion import left_out_calls
from agentflow.report.model import RunRecord
from agentflow.report.summary import scored_rows
from agentflow.report.visible import pieces, visible


def shown(value: Any, limit: int = 4000) -> Markup:
    """`value` as escaped text in which replaced characters stand out."""
    return Markup("").join(
        Markup('<span class="hidden-char">{}</span>').format(piece.text) if piece.hidden else escape(piece.text)
        for piece in pieces(value, limit)
    )


def plain(value: Any, limit: int = 200) -> str:
    """`value` for an attribute or the page's title, where no element may stand: visible text, escaped later."""
    return visible(value, limit)


def number(value: Any, digits: int = 0) -> str:
    """1234.5 -> "1,234"; None, NaN and infinity -> "–"."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def signed(value: Any) -> str:
    """0.5 -> "+0.50", -1.25 -> "−1.25"; None, NaN and infinity -> "–"."""
    return number(value, 2) if value is None or not math.isfinite(value) else f"{value:+.2f}".replace("-", "−")


def points(value: Any) -> str:
    """0.675 -> "+67.5 points" with a no-break space."""
    return f"{100 * value:+.1f}\u00a0points".replace("-", "−")


def percent(value: Any) -> str:
    """0.8125 -> "81.2 %" with a no-break space; None -> "–"."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def interval(value: list[float] | None) -> str:
    """[0.693, 0.891] -> "69–89"; None -> "–"."""
    return "–" if value is None else f"{100 * value[0]:.0f}–{100 * value[1]:.0f}"


def seconds(value: float) -> str:
    """12.34 -> "12.3 s", 754 -> "12 min 34 s", 5400 -> "1 h 30 min"."""
    if not math.isfinite(value):
        return "–"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def pretty_json(value: Any) -> str:
    """`value` indented for reading; what JSON cannot say is shown by its name."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("agentflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (shown, plain, number, signed, points, percent, interval, seconds, pretty_json)
    environment.filters.update({function.__name__: function for function in filters})
    return environment


def _evaluation_table(summary: dict[str, Any]) -> dict[str, Any]:
    """Rows = split and kind, columns = models; a cell is the model's better prompt style there, with its `gain` over
    the first model (a difference of accuracies; None where one of the two is missing).
    """
    best = [cell for cell in summary["evaluation_by"] if cell["best"]]
    models = list(summary["evaluation"])
    places = list(dict.fromkeys((cell["split"], cell["kind"]) for cell in best))
    rows = []
    for split, kind in places:
        cells = {cell["model"]: cell for cell in best if (cell["split"], cell["kind"]) == (split, kind)}
        rows.append({"split": split, "kind": kind, "cells": _with_gains([cells.get(model) for model in models])})
    everything = _with_gains([summary["evaluation"][model] for model in models])
    rows.append({"split": "all", "kind": "", "cells": everything})
    return {"models": models, "rows": rows if models else []}


def _with_gains(cells: list[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    first = cells[0]["accuracy"] if cells and cells[0] else None
    gains = [
        None if i == 0 or first is None or cell is None or cell["accuracy"] is None else cell["accuracy"] - first
        for i, cell in enumerate(cells)
    ]
    return [cell and {**cell, "gain": gain} for cell, gain in zip(cells, gains, strict=True)]


def render_page(run: RunRecord, summary: dict[str, Any]) -> str:
    """The whole of report.html. `summary` is what report.json holds."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            run=run,
            summary=summary,
            table=_evaluation_table(summary),
            pictures={
                "funnel": pictures.funnel(summary["stages"]),
                "losses": pictures.losses(run.logs),
                "rewards": pictures.rewards(summary["rollouts"], run.logs.get("grpo", [])),
                "deltas": pictures.deltas(scored_rows(run)),
                "accuracies": pictures.accuracies(summary["evaluation_by"]),
            },
            hygiene=hygiene_samples(run),
            left_out=left_out_calls(run),
            judged_calls=samples.judged_calls(run),
            traces=samples.trace_samples(run),
            rollouts=samples.rollout_samples(run),
            rejects=samples.reject_samples(run),
            answers=samples.answer_samples(run),
        )
    )
