"""Manifests and sample rows -> Markdown that is safe in Prefect's UI, whatever a model or a search wrote.

`safe_cell` turns any value into one line of a table that renders as exactly those characters: no table break, no
HTML, no link, no image, no code. `safe_code` does it for cells that may be shown as plain text. `stage_markdown` is the
artifact a stage leaves. It truncates and counts nothing else.
"""

from __future__ import annotations

import html
import re
from typing import Any

from agentflow.report.model import Rows, StageRun
from agentflow.report.summary import summarise_stage
from agentflow.report.visible import visible

# Characters with a meaning in Markdown, as numeric references: renderers show them and never act on them.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+\-.!|~$^=:@/]")
_BACKTICKS = re.compile("`+")
_MAX_SAMPLES = 5
_MAX_COLUMNS = 8


def safe_cell(value: Any, limit: int = 200) -> str:
    """`value` as one inert line of at most about `limit` visible characters; None is an en dash.

    HTML is escaped, Markdown's own characters become numeric references (so a bare address makes no link either),
    hidden characters are shown as `⟨U+202E⟩`, line breaks as `↵`.
    """
    if value is None:
        return "–"
    text = visible(value, limit).replace("\n", " ↵ ").replace("\t", " ").strip()
    # "www." starts a link in GitHub-flavoured Markdown; its dots are references by then, like every other mark.
    return _MARKDOWN.sub(
        lambda match: f"&#{ord(match.group())};", html.escape(text, quote=True).replace("&#x27;", "&apos;")
    )


def safe_code(value: Any, limit: int = 200) -> str:
    """`value` as one Markdown code span of at most about `limit` visible characters; None is an en dash.

    For tables in Prefect's UI, whose older version renders a cell as Markdown and whose newer one as plain text: the
    one acts on nothing in it, in the other it still reads as the characters it was made of.
    """
    if value is None:
        return "–"
    text = visible(value, limit).replace("\n", " ↵ ").replace("\t", " ").strip()
    # A span ends at as many backticks as it began with, and a space on both sides does not belong to it.
    fence = "`" * (max((len(run) for run in _BACKTICKS.findall(text)), default=0) + 1)
    space = " " if not text or "`" in (text[0], text[-1]) else ""
    return f"{fence}{space}{text}{space}{fence}"


def table(columns: list[str], rows: Rows, limit: int = 200) -> str:
    """A Markdown table of `rows`; every cell passed `safe_cell`, absent values are dashes."""
    lines = ["| " + " | ".join(safe_cell(column) for column in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(safe_cell(row.get(column), limit) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def stage_markdown(manifest: dict[str, Any], sample_rows: Rows) -> str:
    """The artifact of one stage: counts, rejects by reason, a few rows (at most 5 rows of 8 scalar columns)."""
    name = str(manifest.get("stage", "stage"))
    line = summarise_stage(StageRun(name=name, status="ran", manifest=manifest))
    text = [
        f"## {safe_cell(name)}",
        f"{safe_cell(line['artifact'], 120)}",
        table(
            ["in", "out", "rows", "dropped", "quarantined", "failed"],
            [
                {
                    "in": line["rows_in"],
                    "out": line["keys_out"],
                    "rows": line["rows_out"],
                    "dropped": sum(line["dropped"].values()),
                    "quarantined": line["quarantined"],
                    "failed": line["failed"],
                }
            ],
        ),
    ]
    ends = (("dropped", line["dropped"]), ("quarantined", line["quarantined_by"]), ("failed", line["failed_by"]))
    rejects = [{"end": end, "reason": reason, "keys": n} for end, by in ends for reason, n in by.items()]
    if rejects:
        text += ["### Rejected", table(["end", "reason", "keys"], rejects)]
    if sample_rows:
        scalar = [key for key, value in sample_rows[0].items() if value is None or isinstance(value, str | int | float)]
        text += ["### Sample rows", table(scalar[:_MAX_COLUMNS], sample_rows[:_MAX_SAMPLES], 160)]
    return "\n\n".join(text) + "\n"
