"""Where time goes, by cause."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from agentflow import clock
from agentflow.errors import StoreError


def test_overlapping_blocks_of_a_cause_count_once() -> None:
    times = clock.Times()
    started = time.monotonic()
    with times.during("tool_wait"), times.during("tool_wait"), times.during("generate"):
        time.sleep(0.02)
        seen = times.seconds()
        assert seen["tool_wait"] >= 0.02 and seen["generate"] >= 0.02
    elapsed = time.monotonic() - started
    assert all(0.02 <= value <= elapsed for value in times.seconds().values())


def test_blocks_of_several_threads_lose_nothing() -> None:
    times = clock.Times()

    def work() -> None:
        for _ in range(200):
            with times.during("generate"):
                times.count(clock.GENERATED, 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times.counts() == {clock.GENERATED: 4 * 200 * 3}
    assert times.seconds()["generate"] > 0


def test_a_stage_is_the_sum_of_its_processes_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    progress = tmp_path / "progress" / "grpo.json"
    for _ in range(2):  # two batches in this process
        with clock.recording(progress):
            clock.here().add("train", 1.5)
            clock.here().count(clock.GENERATED, 10)
    other = {"stage": "grpo", "seconds": {"train": 2.0, "sync": 0.5}, "counts": {clock.GENERATED: 1}}
    (tmp_path / "times" / "grpo-other.json").write_text(json.dumps(other))
    (tmp_path / "times" / "torn.json").write_text("{")
    assert clock.read_times(tmp_path) == {
        "grpo": {"seconds": {"train": 5.0, "sync": 0.5}, "counts": {clock.GENERATED: 21}}
    }
    assert clock.read_times(tmp_path, since=time.time() + 60) == {}


def test_outside_a_recording_nothing_is_written(tmp_path: Path) -> None:
    with clock.recording(None):
        clock.here().add("train", 1.0)
    assert list(tmp_path.iterdir()) == []


def test_times_that_cannot_be_written_are_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "times").write_text("a file where the folder should be")
    with pytest.raises(StoreError), clock.recording(tmp_path / "progress" / "sft.json"):
        pass
