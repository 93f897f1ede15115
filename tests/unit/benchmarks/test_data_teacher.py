"""How the benchmark of the teacher counts windows, and that its service keeps what arrived."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.data_insertion import without_annotations
from benchmarks.data_teacher import window_counts
from benchmarks.paced_service import PacedService
from benchmarks.teacher_jobs import bare, stage


def test_the_fullest_window_and_the_mean_of_the_later_ones() -> None:
    arrivals = [0.0, 0.1, 0.2, *(1 + 0.5 * n for n in range(40))]
    most, mean = window_counts(arrivals, 2.0, settle_s=1.0)
    assert most == 5 and mean == 4
    assert window_counts([0.0, 1.0], 60, settle_s=5)[1] == 0.0


def test_annotations_with_an_operator_are_taken_out_with_their_place() -> None:
    text, found = without_annotations("so 48/2=<<48/2=24>>24 and <<5=5>>5")
    assert text == "so 48/2=24 and 5" and found == [(8, "48/2")]


def test_the_measured_jobs_do_what_they_say_on_the_paced_service(tmp_path: Path) -> None:
    with PacedService(latency_ms=1) as service:
        asyncio.run(bare(service.url, 20, 8))
        assert len(service.history(reset=True)["arrivals"]) == 20
        assert asyncio.run(stage(service.url, 20, 8, tmp_path))["wall_s"] > 0
        history = service.history()
    assert len(history["arrivals"]) == 20 and history["peak"] <= 8
