"""The report at the end of a run: what ended the run is said whatever becomes of its report."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prefect._internal.concurrency.cancellation import CancelledError

from agentflow.access import Access
from agentflow.errors import CallTimeout, StageIncomplete
from agentflow.ledger import Cost, PaidCall, Refusal
from agentflow.ledger.meters import meter_line
from flows.recipes import load_recipe
from flows.reporting import RunWatch, open_run_ledger, work_and_report
from tasks.context import RunContext


def fails() -> None:
    raise StageIncomplete("traces: 1 of 3 batches failed")


@pytest.fixture
def where(tmp_path: Path) -> RunContext:
    context = RunContext(
        root=tmp_path, recipe="smoke", access=Access(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}", run_id="r1")
    )
    open_run_ledger(context, None)
    return context


def test_a_failed_run_says_where_the_report_of_what_was_made_is(where: RunContext) -> None:
    said: list[str] = []
    with pytest.raises(StageIncomplete, match="1 of 3 batches"):
        work_and_report(load_recipe("smoke"), where, {}, RunWatch(), fails, said.append)
    assert said == [f"report of what was made: {where.folder / 'report.html'}"]
    assert "1 of 3 batches failed" in (where.folder / "report.html").read_text()


@pytest.mark.parametrize("ends", [KeyboardInterrupt, CancelledError])
def test_a_run_that_is_ended_from_outside_leaves_its_report(where: RunContext, ends: type[BaseException]) -> None:
    def work() -> None:
        raise ends

    with pytest.raises(ends):
        work_and_report(load_recipe("smoke"), where, {}, RunWatch(), work, print)
    report = json.loads((where.folder / "report.json").read_text())
    assert (report["status"], report["error"]) == ("failed", ends.__name__)


def test_a_run_keeps_its_own_report_when_the_next_one_of_its_recipe_ends(where: RunContext) -> None:
    next_one = where.model_copy(update={"access": where.access.model_copy(update={"run_id": "r2"})})
    with pytest.raises(StageIncomplete):
        work_and_report(load_recipe("smoke"), where, {}, RunWatch(), fails, print)
    newest = work_and_report(load_recipe("smoke"), next_one, {}, RunWatch(), lambda: None, print)
    status = {
        one: json.loads((one / "report.json").read_text())["status"]
        for one in (where.reports, next_one.reports, where.folder)
    }
    assert list(status.values()) == ["failed", "completed", "completed"]
    assert newest.read_bytes() == (next_one.reports / "report.html").read_bytes()
    assert "1 of 3 batches failed" in (where.reports / "report.html").read_text()
    assert [path.name for path in where.folder.iterdir() if path.name.startswith(".")] == []


def test_money_that_is_only_assumed_stands_in_the_report_and_on_the_meter(where: RunContext) -> None:
    async def timed_out() -> Refusal:
        return Refusal(CallTimeout("no answer"), None)

    with where.access.open_ledger() as ledger:
        assert ledger.meter() == "calls 0 paid, 0 replayed, 0 tokens, 0.0000 USD"
        with pytest.raises(CallTimeout):
            asyncio.run(ledger.ask(PaidCall("teacher", "local/0", "m", {}, 0, "1"), timed_out, Cost(usd=0.25)))
        assert ledger.meter().endswith("1 failed, 0 tokens, 0.2500 USD (0.2500 of it assumed)")
    work_and_report(load_recipe("smoke"), where, {}, RunWatch(), lambda: None, print)
    said = json.loads((where.folder / "report.json").read_text())["ledger"]
    assert (said["usd"], said["usd_assumed"], said["teacher"]["lost"]) == (0.25, 0.25, 0)


def test_calls_that_were_lost_stand_on_the_meter() -> None:
    service = {"paid": 1, "replayed": 0, "failed": 0, "lost": 2}
    used = {"teacher": service, "search": service, "tokens_in": 0, "tokens_out": 0, "usd": 0.5, "usd_assumed": 0.5}
    assert meter_line(used) == "calls 2 paid, 0 replayed, 4 lost, 0 tokens, 0.5000 USD (0.5000 of it assumed)"


def test_a_defect_of_the_report_does_not_hide_what_ended_the_run(where: RunContext) -> None:
    watch, said = RunWatch(), list[str]()
    watch.started_at = "long ago"  # no date: the report cannot be made
    with pytest.raises(StageIncomplete, match="1 of 3 batches"):
        work_and_report(load_recipe("smoke"), where, {}, watch, fails, said.append)
    assert len(said) == 1 and said[0].startswith("no report: ") and "long ago" in said[0]
