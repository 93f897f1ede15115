"""Where this process runs, so that what it leaves in the ledger can be judged later: host, and since which boot."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
