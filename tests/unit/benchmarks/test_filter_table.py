"""The table of kept shares: lines are kept by their options, and the page takes the table between its marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import filter_table


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filter_table, "RESULTS", tmp_path / "filter_table.json")


def line(syntax: str = "compact", rows: int = 4, calls_kept: int = 3) -> dict[str, object]:
    counts = {"rows": rows, "rows_with_calls": 2, "calls": 6, "calls_kept": calls_kept}
    return {"syntax": syntax, "examples": 2, "weighting": "uniform", "tau": 0.0, **counts}


def test_a_line_replaces_an_older_one_of_its_options_and_is_not_measured_twice() -> None:
    assert not filter_table.is_there("compact", 2, "uniform", 4)
    for one in (line(), line("json"), line(calls_kept=5)):
        filter_table.keep(one)
    assert filter_table.stored() == [line(calls_kept=5), line("json")]
    assert filter_table.is_there("compact", 2, "uniform", 4)
    assert not filter_table.is_there("compact", 2, "uniform", 60)
    assert "| compact | 2 | uniform | 0 | 2 of 4 (50 %) | 5 of 6 (83 %) |" in filter_table.table(filter_table.stored())


def test_the_page_takes_the_table_between_its_marks_and_keeps_the_rest() -> None:
    page = filter_table.PAGE.read_text(encoding="utf-8")
    once = filter_table.with_table(page, "| a |\n|---|")
    assert "| a |\n|---|" in once and filter_table.with_table(once, "| b |") == filter_table.with_table(page, "| b |")
    before, after = page.split(filter_table.MARKS[0])[0], page.split(filter_table.MARKS[1])[1]
    assert once.startswith(before) and once.endswith(after)
    with pytest.raises(ValueError, match="no place for the table"):
        filter_table.with_table("a page", "| a |")
