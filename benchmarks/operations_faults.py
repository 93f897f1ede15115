"""What happens when something is killed, started twice, retried in a browser, or handed a key: the tests of that, run.

In: nothing. Out: one row per line of the project's table; the time is the test's own. A test that skips (no browser, no
cluster) is a row that did not run, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.commands import LONGEST_S, bench_root, pytest_row
from benchmarks.row import Row
from benchmarks.sizes import sized

TRUE_STATE = "ends in a true state, nothing recomputed that was committed"
UP = "tests/faults/test_up.py"
KILLS, SURROUNDINGS = "tests/faults/test_kills.py", "tests/faults/test_surroundings.py"
DEPLOYED = "tests/wrappers/test_deployed_retry.py"
TESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "the same flow started twice at once": (
        "one artifact, no double spend",
        (f"{KILLS}::test_the_same_run_started_twice_at_once_computes_and_pays_once",),
    ),
    "Prefect server killed and started again in mid-run": (
        TRUE_STATE,
        (f"{SURROUNDINGS}::test_a_prefect_server_that_dies_and_comes_back_costs_no_second_call",),
    ),
    "the same under `agentflow up`, a deployment's run": (
        f"{TRUE_STATE}; every batch slot free again",
        (
            f"{DEPLOYED}::"
            "test_a_server_that_is_killed_comes_back_and_no_search_is_paid_twice_and_every_slot_is_free_again",
        ),
    ),
    "Prefect worker killed under a deployment's run": (TRUE_STATE, (f"{DEPLOYED}::test_a_run_outlives_its_worker",)),
    "Ray worker killed in a paid batch": (
        TRUE_STATE,
        (f"{KILLS}::test_a_killed_ray_worker_costs_its_batch_and_nothing_else",),
    ),
    "flow of a deployment killed, then `prefect flow-run retry`": (
        TRUE_STATE,
        (f"{DEPLOYED}::test_a_killed_flow_is_shown_as_crashed_and_its_retry_pays_again_only_what_was_in_flight",),
    ),
    "Ray node killed in the loss filter and in training": (TRUE_STATE, ("tests/faults/test_cluster.py",)),
    "canary keys through the paid stages, and through every deployment": (
        "0 bytes found in database, logs, artifacts, results, ledger, reports",
        (f"{SURROUNDINGS}::test_no_byte_of_a_key_is_written_anywhere", UP),
    ),
    "Retry pressed in Prefect's UI (Chromium)": (
        "exactly the missing calls, by the service's own count",
        ("tests/ui/test_retry_in_the_browser.py::test_retry_in_the_ui_asks_only_the_failed_searches",),
    ),
}


def rows() -> Iterator[Row]:
    """One row per entry of TESTS."""
    with bench_root() as bench:
        for number, (what, (target, tests)) in enumerate(sized([*TESTS.items()], [*TESTS.items()][:1])):
            yield pytest_row(what, target, tests, bench / f"faults-{number}.log", LONGEST_S)
