"""A failed night, repaired in Prefect's UI: a real Chromium opens the run, presses Retry and waits for Completed.

The search service's own count shows exactly the missing calls. The UI is the one that a server shows by default.

Pictures of what it saw go to AGENTFLOW_SCREENSHOTS if that is set, else into the test's own folder.
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
SLOW_MS = 60_000
DRAWN_MS = 3000
# Graphs and folding panels move for a moment after their text is there; only pictures wait for them.


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Debian's Chromium; installed where that is allowed, else the test is skipped with the reason."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "chromium"]):
            subprocess.run(["apt-get", "-q", *command], capture_output=True, timeout=600)
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


class Pictures:
    """Takes pictures of what the browser shows."""

    def __init__(self, page: playwright.Page, folder: Path) -> None:
        self._page, self._folder = page, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> None:
        self._page.wait_for_timeout(DRAWN_MS)
        self._page.screenshot(path=self._folder / f"{name}.png")


@pytest.fixture
def pictures(page: playwright.Page, tmp_path: Path) -> Pictures:
    return Pictures(page, Path(os.environ.get("AGENTFLOW_SCREENSHOTS", tmp_path)))


def test_retry_in_the_ui_asks_only_the_failed_searches(
    machine: Up, stand_ins: tuple[LocalService, LocalService], page: playwright.Page, pictures: Pictures
) -> None:
    teacher, search = stand_ins
    search.set_faults([SOME_FAIL])
    run_id = machine.start_run("nightly-data", parameters())
    assert machine.wait_for_end(run_id)["state_type"] == "FAILED"
    failing = asked(search, failed=True)
    (red, *_) = sorted(one["name"] for one in machine.task_runs(run_id) if one["state_type"] == "FAILED")
    for service in stand_ins:
        service.reset()

    page.goto(f"{machine.url}/v2/runs/flow-run/{run_id}")
    page.get_by_text("Failed", exact=True).first.wait_for()
    # The list of log lines draws what is in view, oldest first.
    page.get_by_role("combobox").filter(has_text="Oldest to newest").click()
    page.get_by_role("option", name="Newest to oldest").click()
    page.get_by_text("only the missing calls are made").first.wait_for()
    pictures.take("operations-failed")
    page.get_by_role("tab", name="Task Runs").click()
    page.get_by_role("link", name=red).first.wait_for()
    pictures.take("operations-failed-task")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("tool-insertion-failed-calls").first.click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()  # the newest of that name
    page.get_by_role("cell", name="server_error").first.wait_for()
    pictures.take("operations-failed-calls")

    page.goto(f"{machine.url}/v2/runs/flow-run/{run_id}")
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Retry").click()
    dialog = page.get_by_role("alertdialog")
    dialog.get_by_text("Retry Flow Run").wait_for()
    pictures.take("operations-retry")
    dialog.get_by_role("button", name="Retry").click()
    dialog.wait_for(state="detached")
    page.goto("about:blank")  # the moving graph of a run under way takes a whole core of a machine without a GPU
    machine.wait_for_end(run_id, attempt=2)
    page.goto(f"{machine.url}/v2/runs/flow-run/{run_id}")
    page.get_by_text("Completed", exact=True).first.wait_for()
    pictures.take("operations-completed")

    run = machine.flow_run(run_id)
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2)
    assert failing and asked(search) == failing
    assert teacher.stats()["requests"] == 0


def test_the_form_of_a_deployment_says_what_each_field_means(
    machine: Up, page: playwright.Page, pictures: Pictures
) -> None:
    deployment = machine.ask("deployments/name/nightly-data/nightly-data")
    page.goto(f"{machine.url}/v2/deployments/deployment/{deployment['id']}/run")
    for title in ("Recipe", "Changed fields", "Regenerate", "Night"):
        page.get_by_text(f"{title} (Optional)", exact=True).wait_for()
    page.get_by_text("Which paid calls are made anew").first.wait_for()
    pictures.take("operations-form")
