"""A failed night, repaired in Prefect's UI: a real Chromium opens the run, presses Retry and waits for Completed.

The search service's own count shows exactly the missing calls.

Screenshots go to AGENTFLOW_SCREENSHOTS if that is set, else into the test's own folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import Up
from up_fixtures import SOME_FAIL, asked, parameters

from agentflow.services.server import LocalService

pytestmark = [pytest.mark.ui, pytest.mark.timeout(1800)]
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-ui installs it")
SLOW_MS = 120_000
RUN_MS = 400_000


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Debian's Chromium; installed where that is allowed, else the test is skipped with the reason."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "chromium"], capture_output=True, timeout=600)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium here, and it cannot be installed (apt-get as root); install Debian's package chromium")
    return found


@pytest.fixture
def page(chromium: str) -> Iterator[playwright.Page]:
    """A tab of a headless browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(SLOW_MS)
        yield page
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("AGENTFLOW_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_retry_in_the_ui_asks_only_the_failed_searches(
    machine: Up, stand_ins: tuple[LocalService, LocalService], page: playwright.Page, pictures: Path
) -> None:
    _, search = stand_ins
    search.set_faults([SOME_FAIL])
    run_id = machine.start_run("nightly-data", parameters())
    assert machine.wait_for_end(run_id)["state_type"] == "FAILED"
    failing = asked(search, failed=True)
    assert failing
    for service in stand_ins:
        service.reset()

    page.goto(f"{machine.url}/runs/flow-run/{run_id}")
    page.get_by_text("Failed", exact=True).first.wait_for()
    page.get_by_text("StageIncomplete").first.wait_for()
    page.screenshot(path=pictures / "failed.png")
    page.get_by_role("tab", name="Task Runs").or_(page.get_by_text("Task Runs", exact=True)).first.click()
    page.get_by_text("tool_insertion ").first.wait_for()
    page.screenshot(path=pictures / "failed-tasks.png")
    retry = page.get_by_role("button", name="Retry", exact=True)
    retry.first.click()
    page.get_by_text("This will retry flow run").wait_for()
    page.screenshot(path=pictures / "dialog.png")
    retry.last.click()
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=RUN_MS)
    machine.wait_for_end(run_id, attempt=2)
    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.wait_for_timeout(2000)  # the graph is drawn
    page.screenshot(path=pictures / "completed.png")

    run = machine.flow_run(run_id)
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2)
    assert asked(search) == failing
    assert stand_ins[0].stats()["requests"] == 0
