"""The teacher's throughput and limits: our stage against the bare client and two other projects, on one local service.

In: a quiet machine with two cores. Out: one row per target of the paid-call layer. Everything asks the paced service,
which has a process of its own and costs a fraction of any client; every measured program has a process of its own too,
and its clock starts behind its imports. Where two are compared, they take turns and medians count.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentflow.stages.traces import SYSTEM
from benchmarks.paced_service import MOST_CONNECTIONS, PacedService
from benchmarks.peers import JobFailed, NoPeer, json_of, peer_python
from benchmarks.row import Row
from benchmarks.sizes import sized

REPO = Path(__file__).resolve().parents[1]
ROUNDS, SLOW_ROUNDS = sized((3, 2), (1, 1))
REQUESTS, IN_FLIGHT, LATENCY_MS = sized(2000, 200), 64, 200
SLOW_REQUESTS = sized(1000, 128)
LIMIT, LIMITED_S = 600, sized(130.0, 8.0)
FLOOD_REQUESTS, FLOODS = sized((10_000, (500, 5_000)), (500, (50, 500)))
FLOOD_ROUNDS = sized(2, 1)
LONGEST_S = 900
PEERS: dict[str, tuple[float, list[str]]] = {
    # Requirements are exact; ours have to be so many times as fast.
    "NVIDIA Data Designer 0.9.6": (2.0, ["data-designer==0.9.6"]),
    "distilabel 1.5.3": (3.5, ["distilabel[openai]==1.5.3", "requests==2.32.5"]),
}


def rows() -> Iterator[Row]:
    """Every target's row, in the order they are measured."""
    with PacedService(LATENCY_MS) as service:
        ours, all_rows = _throughput(service)
        yield from all_rows
        for name in PEERS:
            yield _against(name, ours, service)
    with PacedService(1000) as service:
        yield _slow(service)
    with PacedService(LATENCY_MS) as service:
        yield from _limited(service)
    with PacedService(1000) as service:
        yield from _floods(service)


def _own(job: str, service: PacedService, *arguments: object) -> dict[str, Any]:
    """One of `teacher_jobs`, in an empty folder given as its last argument."""
    with tempfile.TemporaryDirectory(prefix="bench-teacher-") as folder:
        given = [str(argument) for argument in arguments] + ([folder] if job == "stage" else [])
        command = [sys.executable, "-m", "benchmarks.teacher_jobs", job, service.url, *given]
        return json_of(command, folder)


def _throughput(service: PacedService) -> tuple[float, list[Row]]:
    """Ours and the bare client in turns; our median seconds, and the rows."""
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(_own("bare", service, REQUESTS, IN_FLIGHT)["wall_s"])
        ours.append(_own("stage", service, REQUESTS, IN_FLIGHT)["wall_s"])
    history = service.history(reset=True)
    assert len(history["arrivals"]) == 2 * ROUNDS * REQUESTS and history["peak"] <= IN_FLIGHT
    ideal = REQUESTS / IN_FLIGHT * LATENCY_MS / 1000
    floor, mine = statistics.median(bare), statistics.median(ours)
    what = f"{REQUESTS:,} teacher requests at {LATENCY_MS} ms, {IN_FLIGHT} in flight: "
    spread = f"runs {_seconds(ours)}"
    against = Row.done(
        what + "throughput of the traces stage, ledger and artifact included, against the bare openai client (aiohttp)",
        "≥ 0.87",
        round(floor / mine, 3),
        "times",
        floor / mine >= 0.87,
        f"{mine:.2f} s against {floor:.2f} s (bare runs {_seconds(bare)}); ideal {ideal:.2f} s",
    )
    return mine, [Row.done(what + "traces stage", "", round(mine, 2), "s", True, spread), against]


def _seconds(runs: Sequence[float]) -> str:
    return ", ".join(f"{run:.2f}" for run in runs)


def _against(name: str, ours: float, service: PacedService) -> Row:
    """Ours against the peer at its best: tuned for this work, or as it comes but for the concurrency."""
    times, requirements = PEERS[name]
    what = f"the same {REQUESTS:,} requests, traces stage against {name}"
    script = "peer_data_designer.py" if "Designer" in name else "peer_distilabel.py"
    walls = {}
    try:
        python = peer_python(script.removesuffix(".py").removeprefix("peer_"), requirements)
        for settings in ("tuned", "own"):
            with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
                arguments = [service.url, str(REQUESTS), str(IN_FLIGHT), folder, SYSTEM, settings]
                # Isolated: neither this folder nor a PYTHONPATH may put our modules before the peer's.
                done = json_of([str(python), "-I", str(REPO / "benchmarks" / script), *arguments], folder)
            walls[settings] = done["wall_s"]
    except (NoPeer, JobFailed, subprocess.TimeoutExpired) as error:
        return Row.not_run(what, f"≥ {times} times", "times", str(error))
    service.history(reset=True)
    peer, ideal = min(walls.values()), REQUESTS / IN_FLIGHT * LATENCY_MS / 1000
    reason = (
        f"{ours:.2f} s against {walls['tuned']:.2f} s tuned for this work and {walls['own']:.2f} s as it comes, one "
        f"run each, start-up after the imports included; the ideal {ideal:.2f} s would be {peer / ideal:.2f} times"
    )
    return Row.done(what, f"≥ {times} times", round(peer / ours, 2), "times", peer / ours >= times, reason)


def _slow(service: PacedService) -> Row:
    ideal = -(-SLOW_REQUESTS // IN_FLIGHT) * service.latency_ms / 1000
    runs = [_own("stage", service, SLOW_REQUESTS, IN_FLIGHT)["wall_s"] for _ in range(SLOW_ROUNDS)]
    share = ideal / statistics.median(runs)
    what = f"{SLOW_REQUESTS:,} teacher requests at 1 s, {IN_FLIGHT} in flight: share of the ideal {ideal:.0f} s"
    return Row.done(what, "≥ 0.95", round(share, 3), "", share >= 0.95, f"runs {_seconds(runs)} s")


def _limited(service: PacedService) -> Iterator[Row]:
    """Two processes share one limit; the service's own history counts."""
    what = f"{LIMIT} requests a minute shared by 2 processes: "
    with tempfile.TemporaryDirectory(prefix="bench-limit-") as folder:
        ledger = str(Path(folder, "ledger.db"))
        command = [sys.executable, "-m", "benchmarks.teacher_jobs", "limited", service.url, str(LIMITED_S), ledger]
        processes = [
            subprocess.Popen([*command, str(LIMIT), str(first)], cwd=REPO, stdout=subprocess.PIPE, text=True)
            for first in (0, 500_000_000)
        ]
        asked = [json.loads(process.communicate(timeout=LONGEST_S)[0])["asked"] for process in processes]
    arrivals = sorted(service.history(reset=True)["arrivals"])
    most, share = window_counts(arrivals, 60.0, settle_s=5.0)
    seconds = arrivals[-1] - arrivals[0]
    seen = f"{len(arrivals)} requests in {seconds:.0f} s, {' + '.join(map(str, asked))} answered"
    yield Row.done(what + "most in any 60 s, as the service counts", f"≤ {LIMIT}", most, "", most <= LIMIT, seen)
    used = share / LIMIT
    least = "the mean over all 60 s windows that begin 5 s after the start or later"
    yield Row.done(what + "share used", "0.95 to 1", round(used, 3), "", 0.95 <= used <= 1, least)


def window_counts(arrivals: Sequence[float], window_s: float, settle_s: float) -> tuple[int, float]:
    """Most arrivals in any window, and their mean over the windows that lie wholly behind the first `settle_s`.

    `arrivals`: ascending seconds, at least one. Windows begin at an arrival (most) and every tenth of a second (mean).
    """
    most = max(bisect_left(arrivals, start + window_s) - at for at, start in enumerate(arrivals))
    counts, start = [], arrivals[0] + settle_s
    while start + window_s <= arrivals[-1]:
        counts.append(bisect_left(arrivals, start + window_s) - bisect_left(arrivals, start))
        start += 0.1
    return most, statistics.mean(counts) if counts else 0.0


def _floods(service: PacedService) -> Iterator[Row]:
    what = f"{FLOOD_REQUESTS:,} requests at 1 s: "
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < MOST_CONNECTIONS + 256:
        reason = f"a process may open only {hard} files here"
        yield Row.not_run(what + "wall time with 5,000 in flight", "≤ with 500", "s", reason)
        return
    walls, extras, peaks = {}, {}, {}
    for in_flight in FLOODS:
        found = [_own("stage", service, FLOOD_REQUESTS, in_flight) for _ in range(FLOOD_ROUNDS)]
        walls[in_flight] = min(one["wall_s"] for one in found)
        extras[in_flight] = max(one["extra_mib"] for one in found)
        peaks[in_flight] = service.history(reset=True)["peak"]
        time.sleep(1)
    few, many = FLOODS
    seen = f"{peaks[many]:,} in flight as the service saw it"
    reason = f"{walls[few]:.1f} s with {few}; {seen}; better of {FLOOD_ROUNDS} runs each"
    ok = walls[many] <= walls[few]
    yield Row.done(what + f"wall time with {many:,} in flight", f"≤ with {few}", round(walls[many], 1), "s", ok, reason)
    more = extras[many]
    reason = f"peak resident memory over that before the stage began, not over the {extras[few]:.0f} MiB with {few}"
    ok = more <= 300e6 / 2**20
    yield Row.done(what + f"extra memory with {many:,} in flight", "≤ 300 MB", round(more), "MiB", ok, reason)
