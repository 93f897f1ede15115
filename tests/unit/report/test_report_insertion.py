"""The report's section on inserted calls: counts from the manifest, none of them lost, all of them escaped."""

from __future__ import annotations

import json
from typing import Any

from agentflow.report.build import build_report
from agentflow.report.insertion import left_out_calls
from agentflow.report.model import RunRecord

FACTS = {
    "calls": {"Calculator": 41, "Search": 12},
    "left_out": {"Calculator": {"max_calls": 3}, "Search": {"refused": 1, "lookup_sentence": 2, "<b>new": 4}},
    "search_results": {"leaks": 1, "blocked": 0},
    "contradictions": {},
    "later_uses_of_corrected_numbers": 0,
}


def with_insertion(record: RunRecord, extra: dict[str, Any]) -> RunRecord:
    stages = [
        stage.model_copy(update={"manifest": {**stage.manifest, "extra": extra}})
        if stage.name == "tool_insertion"
        else stage
        for stage in record.stages
    ]
    return record.model_copy(update={"stages": stages})


def test_calls_left_out_are_on_the_page_and_in_the_file_by_reason(record: RunRecord) -> None:
    run = with_insertion(record, {**FACTS, "other": 1})
    build_report(run)
    assert json.loads((run.out_dir / "report.json").read_text())["insertion"] == FACTS
    page = (run.out_dir / "report.html").read_text()
    section = page[page.index('<section id="insertion">') : page.index('<section id="filter">')]
    assert "41 Calculator, 12 Search" in section and "Left out of rows that stay: 10." in section
    assert "&lt;b&gt;new" in section and "<b>new" not in section
    rows = [(row["tool"], row["reason"], row["n"]) for row in left_out_calls(run)]
    assert rows == [
        ("Search", "lookup_sentence", 2), ("Calculator", "max_calls", 3),
        ("Search", "refused", 1), ("Search", "<b>new", 4),
    ]  # fmt: skip


def test_a_run_made_before_they_were_counted_has_no_section(record: RunRecord) -> None:
    build_report(record)
    assert 'id="insertion"' not in (record.out_dir / "report.html").read_text()
    assert json.loads((record.out_dir / "report.json").read_text())["insertion"] is None
