"""Where this process runs, so that what it leaves in the ledger can be judged later: (host, boot, pid, start) names a
process exactly.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# psutil computes start times from the boot time, which moves a little when the clock is set.
_SAME_START_S = 2.0


@cache
def host_and_boot() -> str:
    """`host|boot`; the boot is empty where the system does not tell."""
    return f"{platform.node()}|{_boot_id()}"


@cache
def boot() -> str:
    """The machine since it was started: its processes share one monotonic clock. Its name where no id is given."""
    return _boot_id() or platform.node()


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def me() -> str:
    """This process as `host|boot|pid|start`."""
    return f"{host_and_boot()}|{os.getpid()}|{psutil.Process().create_time():.2f}"


def is_alive(owner: str) -> bool | None:
    """Whether the process still runs; None if it is of another host or boot, where that cannot be known."""
    place, pid, start = owner.rsplit("|", 2)
    if place != host_and_boot():
        return None
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(start)) <= _SAME_START_S
    except psutil.NoSuchProcess:
        return False
