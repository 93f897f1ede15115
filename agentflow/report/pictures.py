"""Numbers of a run -> pictures as inline SVG that follows the page's light or dark colours.

Drawn by matplotlib without pyplot (no global state, no display). Colours are placeholders that become CSS variables,
text stays text in the page's font, and everything that names an outside address is removed.
Each function returns None where there is nothing to draw.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from agentflow.report.evaluation import Summary
from agentflow.report.model import Rows
from agentflow.report.visible import visible

# Placeholder colours (no other colour may occur in a picture) and the CSS variables they become.
INK, LINE, GOOD, WARN, ODD, BAD = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
SERIES = ["#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14", "#0a0b15", "#0a0b16"]
_VARIABLES = {INK: "--ink-2", LINE: "--line", GOOD: "--good", WARN: "--warn", ODD: "--odd", BAD: "--bad"} | {
    colour: f"--s{index}" for index, colour in enumerate(SERIES, start=1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentflow",
    "text.parse_math": False,  # a "$" in a label is a dollar
    "font.size": 8.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "patch.linewidth": 0,
}
_FULL, _HALF = 10.4, 5.1  # inches: the page's text column and half of it


def _label(value: Any) -> str:
    return visible(value, 40).replace("\n", " ")


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(1, panels, index + 1) for index in range(panels)]
    for axis in axes:
        axis.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, name: str, caption: str) -> Markup:
    """`figure` as an <svg> element whose ids begin with `name`, so that several fit on one page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = (
        re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", text[: text.index(">")])
        + text[text.index(">") :]
    )
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Every text in a figure went through _label and matplotlib's XML escape; the caption through Markup's.
    return Markup('<figure class="picture"><div class="scroll" role="img" aria-label="{}">{}</div></figure>').format(
        caption, Markup(text)
    )


def funnel(stages: Sequence[dict[str, Any]]) -> Markup | None:
    """Bars of input keys by how they ended, one per stage that has rows (lines of report.json's `stages`)."""
    shown = [stage for stage in stages if stage["rows_in"] and stage["keys_out"] is not None]
    if not shown:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, (axis,) = _figure(_FULL, 0.7 + 0.36 * len(shown))
        places = list(range(len(shown)))
        left = [0] * len(shown)
        parts = [
            ("out", GOOD, [stage["keys_out"] for stage in shown]),
            ("dropped", WARN, [sum(stage["dropped"].values()) for stage in shown]),
            ("quarantined", ODD, [stage["quarantined"] for stage in shown]),
            ("failed", BAD, [stage["failed"] for stage in shown]),
        ]
        for name, colour, values in parts:
            if name == "out" or any(values):
                axis.barh(places, values, left=left, height=0.62, color=colour, label=name)
                left = [start + value for start, value in zip(left, values, strict=True)]
        widest = max(max(left), 1)
        for place, stage, end in zip(places, shown, left, strict=True):
            axis.text(end + widest * 0.008, place, f"{stage['keys_out']:,} of {stage['rows_in']:,}", va="center")
        axis.set_yticks(places, [_label(stage["name"]) for stage in shown])
        axis.invert_yaxis()
        axis.set_xlim(0, widest * 1.14)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(False, axis="y")
        axis.set_xlabel("input keys")
        figure.legend(loc="outside upper left", ncols=4)
        return _svg(figure, "funnel", "Input keys of every stage by how they ended")


def _points(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    pairs = [(int(r["step"]), float(r[key])) for r in rows if "step" in r and isinstance(r.get(key), int | float)]
    pairs = [(step, value) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def rollout_points(log: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of `key`, by the step whose rollouts they describe: the trainer logs when that is done, from 1
    on, and rollouts count steps from 0.
    """
    steps, values = _points(log, key)
    return [step - 1 for step in steps], values


def losses(logs: dict[str, Rows]) -> Markup | None:
    """Training loss over steps, one panel for SFT and one for the cold start."""
    shown = [(name, rows) for name, rows in logs.items() if name != "grpo" and _points(rows, "loss")[0]]
    if not shown:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_FULL if len(shown) > 1 else _HALF * 1.4, 2.5, len(shown))
        for axis, (name, rows) in zip(axes, shown, strict=True):
            axis.plot(*_points(rows, "loss"), color=SERIES[0], label="train", marker="o", markersize=2.5)
            if _points(rows, "eval_loss")[0]:
                axis.plot(*_points(rows, "eval_loss"), color=SERIES[1], label="held out", marker="o", markersize=2.5)
                axis.legend()
            axis.set_title(_label(name))
            axis.set_xlabel("optimiser step")
            axis.set_ylabel("loss, nats a token")
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "loss", "Training loss over steps")


def rewards(steps: Sequence[dict[str, Any]], log: Rows) -> Markup | None:
    """GRPO: mean reward and its parts, share of groups with variance, and what the log adds (KL, length)."""
    steps = [step for step in steps if step["reward"] is not None]
    if not steps:
        return None
    extras = [
        (title, rollout_points(log, key))
        for key, title in (
            ("kl", "KL to the reference, nats"),
            ("completions/mean_length", "completion length, tokens"),
        )
        if rollout_points(log, key)[0]
    ]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_FULL, 2.7, 2 + len(extras))
        x = [step["step"] for step in steps]
        axes[0].plot(x, [step["reward"] for step in steps], color=INK, label="total", marker="o", markersize=3)
        for index, part in enumerate(sorted({name for step in steps for name in step["parts"]})):
            values = [step["parts"].get(part, math.nan) for step in steps]
            colour = SERIES[index % len(SERIES)]
            axes[0].plot(x, values, color=colour, label=_label(part), marker="o", markersize=2.5, linewidth=1.3)
        axes[0].set_title("mean reward")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
        shares = [step["groups_with_variance"] / step["groups"] if step["groups"] else math.nan for step in steps]
        axes[1].bar(x, shares, color=SERIES[0], width=0.6)
        axes[1].set_ylim(0, 1.02)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1))
        axes[1].set_title("groups with reward variance")
        for axis, (title, (extra_x, values)) in zip(axes[2:], extras, strict=True):
            axis.plot(extra_x, values, color=SERIES[2], marker="o", markersize=2.5)
            axis.set_title(title)
        for axis in axes:
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "grpo", "GRPO rewards over steps")


def deltas(rows: Rows) -> Markup | None:
    """Histogram of loss without calls minus loss with calls; right of zero the calls help (rows of FILTERED)."""
    judged = [row for row in rows if row.get("delta") is not None and math.isfinite(row["delta"])]
    if not judged:
        return None
    values = [row["delta"] for row in judged]
    low, high = min(*values, 0.0), max(*values, 0.0)
    width = max(high - low, 1e-3) / 30
    edges = [i * width for i in range(math.floor(low / width), math.ceil(high / width) + 1)]
    if len(edges) < 2:
        edges = [-width, 0.0, width]
    with matplotlib.rc_context(_STYLE):
        figure, (axis,) = _figure(_FULL, 2.4)
        keeps = ("kept", "some_calls_kept")
        kept = [row["delta"] for row in judged if row["decision"] in keeps]
        lost = [row["delta"] for row in judged if row["decision"] not in keeps]
        axis.hist(
            [kept, lost],
            bins=edges,
            stacked=True,
            color=[GOOD, WARN],
            label=["calls kept", "calls removed"],
            rwidth=0.92,
        )
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_xlabel("loss without calls − loss with calls, nats a token (right of 0: the calls help)")
        axis.set_ylabel("samples")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(False, axis="x")
        axis.legend()
        return _svg(figure, "delta", "Histogram of loss differences of the filter")


def accuracies(cells: Sequence[Summary]) -> Markup | None:
    """Accuracy with its 95 % interval per split and kind, one mark per model (entries of `evaluation_by`)."""
    shown = [cell for cell in cells if cell["best"] and cell["accuracy"] is not None]
    if not shown:
        return None
    places = list(dict.fromkeys((cell["split"], cell["kind"]) for cell in shown))
    models = list(dict.fromkeys(cell["model"] for cell in shown))
    with matplotlib.rc_context(_STYLE):
        figure, (axis,) = _figure(_FULL, 2.8)
        step = 0.8 / len(models)
        for index, model in enumerate(models):
            own = [cell for cell in shown if cell["model"] == model]
            x = [places.index((cell["split"], cell["kind"])) - 0.4 + step * (index + 0.5) for cell in own]
            y = [cell["accuracy"] for cell in own]
            spread = [
                [max(0.0, cell["accuracy"] - cell["ci95"][0]) for cell in own],
                [max(0.0, cell["ci95"][1] - cell["accuracy"]) for cell in own],
            ]
            colour = SERIES[index % len(SERIES)]
            axis.bar(x, y, width=step * 0.86, color=colour, label=_label(model))
            axis.errorbar(x, y, yerr=spread, fmt="none", color=INK, elinewidth=1, capsize=2.5)
        axis.set_xticks(range(len(places)), [f"{_label(split)}\n{_label(kind)}" for split, kind in places])
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(False, axis="x")
        figure.legend(loc="outside upper left", ncols=6)
        return _svg(figure, "accuracy", "Accuracy with 95 % intervals before and after training")
