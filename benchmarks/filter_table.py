"""The table of docs/loss_filter.md: which share of calls survives, by syntax, worked examples and weighting.

    python -m benchmarks.filter_table --rows 60            # about half an hour on one core; adds to the result file
    python -m benchmarks.filter_table --rows 60 --only json 2 toolformer     # one line of it

Real GSM8K solutions with calculator calls, scored by SmolLM2-135M. Each line is kept in
`benchmarks/filter_table.json`; the whole table is printed and put into docs/loss_filter.md, between its two marks.
A line of other rows than asked for now is measured anew; one of the same rows is not (`--again` does).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentflow.models.loading import load_model, load_tokenizer
from agentflow.rendering import PromptConfig
from agentflow.stages.loss_filter import LossFilterConfig, decide
from benchmarks.commands import bench_root
from benchmarks.data_filter import filtered, smollm2, tool_traces

RESULTS = Path(__file__).resolve().with_name("filter_table.json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "loss_filter.md"
MARKS = ("<!-- made by benchmarks.filter_table -->", "<!-- end -->")
OPTIONS = list(itertools.product(("compact", "json"), ("0", "1", "2"), ("uniform", "toolformer")))
TAUS = (0.0, 1.0)
# Toolformer's rule asks for 1.0 [P]; at 0 it is comparable with paper A's.


def main() -> None:
    """Score what was asked for and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--only", nargs=3, metavar=("SYNTAX", "EXAMPLES", "WEIGHTING"))
    parser.add_argument("--again", action="store_true", help="also what is there already")
    asked = parser.parse_args()
    traces = tool_traces(asked.rows)
    with bench_root() as bench:
        base = smollm2(bench / "smollm2")
        model, tokenizer = load_model(base).eval(), load_tokenizer(base)
    for option in [tuple(asked.only)] if asked.only else OPTIONS:
        syntax, examples, weighting = option
        if not asked.again and is_there(syntax, int(examples), weighting, len(traces)):
            continue
        prompt = PromptConfig.model_validate({"syntax": syntax})
        settings = {"n_examples": int(examples), "weighting": weighting, "prompt": prompt}
        config = LossFilterConfig.model_validate(settings)
        scores = filtered(traces, model, tokenizer, config)
        taus = TAUS if weighting == "toolformer" else (0.0,)
        for tau in taus:
            changed = config.model_copy(update={"tau": tau, "test": ">=" if tau else ">"})
            keep(
                {"syntax": syntax, "examples": int(examples), "weighting": weighting, "tau": tau}
                | counts(decide(traces, scores, changed).rows)
            )
    lines = stored()
    print(table(lines))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(lines)), encoding="utf-8")


def is_there(syntax: str, examples: int, weighting: str, rows: int) -> bool:
    """Whether these options were measured on so many rows."""
    wanted = {"syntax": syntax, "examples": examples, "weighting": weighting, "rows": rows}
    return any(all(line[name] == value for name, value in wanted.items()) for line in stored())


def with_table(page: str, lines: str) -> str:
    """`page` with `lines` in place of what stands between the marks."""
    before, _, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"{PAGE.name} has no place for the table: {' ... '.join(MARKS)}")
    return f"{before}{MARKS[0]}\n{lines}\n{MARKS[1]}{after}"


def stored() -> list[dict[str, Any]]:
    """The lines measured so far."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    return found


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Rows and calls before and after the filter."""
    return {
        "rows": len(rows),
        "rows_with_calls": sum(row["n_calls"] > 0 for row in rows),
        "calls": sum(row["n_calls_before"] for row in rows),
        "calls_kept": sum(row["n_calls"] for row in rows),
    }


def keep(line: dict[str, Any]) -> None:
    """Put `line` into the result file, in place of an older one of the same options."""
    names = ("syntax", "examples", "weighting", "tau")
    others = [old for old in stored() if any(old[name] != line[name] for name in names)]
    lines = sorted([*others, line], key=lambda one: [str(one[name]) for name in names])
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(lines, indent=1) + "\n")
    os.replace(temporary, RESULTS)


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    text = ["| syntax | examples | weighting | tau | rows that keep calls | calls kept |", "|---|---|---|---|---|---|"]
    for one in lines:
        rows = share(one["rows_with_calls"], one["rows"])
        calls = share(one["calls_kept"], one["calls"])
        text.append(f"| {one['syntax']} | {one['examples']} | {one['weighting']} | {one['tau']:g} | {rows} | {calls} |")
    return "\n".join(text)


def share(part: int, whole: int) -> str:
    """`41 of 60 (68 %)`."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)"


if __name__ == "__main__":
    main()
