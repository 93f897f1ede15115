"""The last lines every Ray worker printed, kept by the driver: a worker that died, or whose whole node is gone, cannot
be asked any more.

In: Ray's log stream of this job, from all nodes. Out: lines for a message. Nothing is printed, so a terminal keeps the
live display. Ours, on Ray 2.60's internal log dispatcher: there is no public hook for it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict, deque
from typing import Any

LINES = 100
# A crash prints its signal first and then a stack of dozens of lines.
TEXT = 1500
# Characters of a message.
WORKERS = 256
# How many workers are remembered; the one that was silent longest goes first.
PATIENCE_S = 5.0
# A worker's death is known before its last lines are: Ray reads its log files in turns.
QUIET_S = 1.0
# They come in several messages: all are there when none came for so long.
DEATH = re.compile(r"\*\*\* SIG|^Fatal Python error")
# The first line of a crash's account: of that, the beginning says more than the end.
NOISE = "Extension modules: "
# Python's fault handler ends with a hundred modules by name.


class WorkerLines:
    """Ring of lines by worker (node address and process id)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._by_worker: OrderedDict[tuple[str, int], tuple[str, deque[str]]] = OrderedDict()

    def take(self, data: dict[str, Any]) -> None:
        """One message of Ray's log stream: {"ip", "pid", "lines", "actor_name", "task_name", ...}."""
        try:
            worker = (str(data["ip"]), int(data["pid"]))
        except (KeyError, TypeError, ValueError):
            return  # lines of a raylet or the autoscaler
        name = str(data.get("actor_name") or data.get("task_name") or "")
        with self._changed:
            known, lines = self._by_worker.pop(worker, ("", deque[str](maxlen=LINES)))
            lines.extend(str(line) for line in data.get("lines", ()))
            self._by_worker[worker] = (name or known, lines)
            if len(self._by_worker) > WORKERS:
                self._by_worker.popitem(last=False)
            self._changed.notify_all()

    def of(self, text: str, wait_s: float = 0.0) -> str:
        """What the worker named in `text` printed last (` | ` between lines, at most `TEXT` characters): from where its
        death begins if it says so, else the end. "" if nothing came within `wait_s`.

        `text` is Ray's account of a death, which names the process (`pid: 4711`, `PID=4711`), or a task's name.
        """
        deadline = time.monotonic() + wait_s
        with self._changed:
            while not self._find(text) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            lines: list[str] = []
            while (now := self._find(text)) != lines and (left := deadline - time.monotonic()) > 0:
                lines = now
                self._changed.wait_for(lambda: self._find(text) != now, min(QUIET_S, left))
        return _shortened([line.strip() for line in now if line.strip() and not line.startswith(NOISE)])

    def _find(self, text: str) -> list[str]:
        for (_, pid), (name, lines) in reversed(self._by_worker.items()):
            if lines and (_names(text, pid) or (name and name == text)):
                return list(lines)
        return []


def _shortened(lines: list[str]) -> str:
    death = next((at for at, line in enumerate(lines) if DEATH.search(line)), None)
    if death is None:
        return " | ".join(lines[-8:])[-TEXT:]
    return " | ".join(lines[death:])[:TEXT]


def _names(text: str, pid: int) -> bool:
    return re.search(rf"\bpid\s*[:=]\s*{pid}\b", text, re.IGNORECASE) is not None


kept = WorkerLines()
# Of the cluster this process is connected to.


def capture() -> None:
    """Keep the lines instead of printing them. Call after `ray.init(log_to_driver=True)`."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as stream

    for name in ("ray_print_logs", "agentflow"):
        stream.remove_handler(name)
    stream.add_handler("agentflow", kept.take)


def with_last_lines(message: str, account: str | None = None, wait_s: float = PATIENCE_S) -> str:
    """`message` with the last lines of the worker that it names, if any came within `wait_s`; `account` is Ray's whole
    account of the death or, where that names no process, the task the worker was at.
    """
    lines = kept.of(account or message, wait_s)
    return f"{message}; its last lines: {lines}" if lines else message
