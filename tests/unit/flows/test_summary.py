"""What a run prints at its end fits a terminal of 80 characters, and a log file."""

from __future__ import annotations

import io
import json
from pathlib import Path

from report_rows import make_record
from rich.console import Console

from agentflow.report.summary import summarise_run
from flows.summary import print_summary


def test_every_name_and_number_is_whole_in_eighty_characters(tmp_path: Path) -> None:
    report = summarise_run(make_record(tmp_path))
    (tmp_path / "report.json").write_text(json.dumps(report))
    screen = io.StringIO()
    print_summary(tmp_path / "report.json", Console(file=screen, width=80))
    text = screen.getvalue()
    assert "…" not in text and max(len(line) for line in text.splitlines()) <= 80
    for stage in report["stages"]:
        assert stage["name"] in text
    for cell in report["evaluation_by"]:
        if cell["best"]:
            low, high = cell["ci95"]
            line = next(
                line
                for line in text.splitlines()
                if line.split()[:3] == [cell["split"], cell["kind"], cell["model"]] and f"{low:.2f}-{high:.2f}" in line
            )
            assert f"{cell['accuracy']:.3f}" in line
    assert "test_unseen" in text and "base (plain)" in text
