"""Where this process runs, so that what it leaves in the ledger can be judged later: (host, boot, pid, start) names a
process exactly.

No clock takes part where there is a /proc: one that is set (a laptop that wakes up, NTP) moves every start time that
is told in seconds, and a living process looked dead. Its calls were then paid twice.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import psutil

_PROC = Path("/proc")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
# Of the host itself (PROC_PID_INIT_INO in Linux's proc_ns.h).
_SAME_START_S = 2.0
# Start times in seconds since the epoch move a little when the clock is set.


@cache
def host_and_boot() -> str:
    """`host|boot`; the boot is empty where the system does not tell.

    In a container the boot has its process namespace beside it: on the host's network (`network_mode: host`) it has the
    host's name, but its process numbers mean nothing outside.
    """
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        namespace = _FIRST_PID_NAMESPACE
    inside = "" if namespace == _FIRST_PID_NAMESPACE else f" {namespace}"
    return f"{platform.node()}|{_boot_id()}{inside}"


@cache
def boot() -> str:
    """The machine since it was started: its processes share one monotonic clock. Its name where no id is given."""
    return _boot_id() or platform.node()


def _boot_id() -> str:
    path = _PROC / "sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else ""


def me() -> str:
    """This process as `host|boot|pid|start`."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> str:
    """A process of this host in the same form. Raises psutil.NoSuchProcess."""
    ticks = _start_ticks(pid)
    start = f"{psutil.Process(pid).create_time():.2f}" if ticks is None else f"ticks{ticks}"
    return f"{host_and_boot()}|{pid}|{start}"


def is_alive(owner: str) -> bool | None:
    """Whether the process still runs; None where that cannot be known: another host or boot, or hidden (hidepid)."""
    place, pid, start = owner.rsplit("|", 2)
    if place != host_and_boot():
        return None
    try:
        if start.startswith("ticks"):
            return start == f"ticks{_start_ticks(int(pid))}" and not _has_ended(int(pid))
        return abs(psutil.Process(int(pid)).create_time() - float(start)) <= _SAME_START_S
    except psutil.NoSuchProcess:
        return None if psutil.pid_exists(int(pid)) else False
    except psutil.AccessDenied:
        return None


def _has_ended(pid: int) -> bool:
    """Killed, and its parent did not look yet: it does nothing any more."""
    return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _start_ticks(pid: int) -> int | None:
    """Clock ticks from the boot to the start of the process; None without a /proc.

    Raises psutil.NoSuchProcess, and psutil.AccessDenied where it is another user's and may not be looked at.
    """
    if not (_PROC / "self/stat").exists():
        return None
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    except PermissionError:
        raise psutil.AccessDenied(pid) from None
    # The name, in parentheses, may hold anything; the start is the 22nd field, the 20th behind the name.
    return int(stat.rpartition(")")[2].split()[19])
