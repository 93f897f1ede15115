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
from dataclasses import dataclass, field
from typing import Any

LINES = 8
TEXT = 1500
# Characters of a message.
WORKERS = 256
# How many workers are remembered; the one that was silent longest goes first.
PATIENCE_S = 5.0
# A worker's death is known before its last lines are: Ray reads its log files in turns.
QUIET_S = 1.0
# They come in several messages: all are there when none came for so long.
DEATH = re.compile(r"\*\*\* SIG|^Fatal Python error")
# The first line of a crash's account, which is hundreds of lines of stacks: its beginning says more than its end.
ACCOUNT = 60
# Lines kept from there on.
NOISE = "Extension modules: "
# Python's fault handler ends with a hundred modules by name.


@dataclass
class _Worker:
    name: str = ""
    # Of its actor or task.
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    death: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        if not line.strip() or line.startswith(NOISE):
            return
        if self.death or DEATH.search(line):
            if len(self.death) < ACCOUNT:
                self.death.append(line.strip())
        else:
            self.last.append(line.strip())

    def text(self) -> str:
        return " | ".join(self.death)[:TEXT] or " | ".join(self.last)[-TEXT:]


class WorkerLines:
    """What each worker printed, by node address and process id."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._by_worker: OrderedDict[tuple[str, int], _Worker] = OrderedDict()

    def take(self, data: dict[str, Any]) -> None:
        """One message of Ray's log stream: {"ip", "pid", "lines", "actor_name", "task_name", ...}."""
        try:
            key = (str(data["ip"]), int(data["pid"]))
        except (KeyError, TypeError, ValueError):
            return  # lines of a raylet or the autoscaler
        with self._changed:
            worker = self._by_worker.pop(key, None) or _Worker()
            worker.name = str(data.get("actor_name") or data.get("task_name") or "") or worker.name
            for line in data.get("lines", ()):
                worker.take(str(line))
            self._by_worker[key] = worker
            if len(self._by_worker) > WORKERS:
                self._by_worker.popitem(last=False)
            self._changed.notify_all()

    def of(self, text: str, wait_s: float = 0.0) -> str:
        """What the worker named in `text` printed last (` | ` between lines, at most `TEXT` characters): from where its
        death begins if it says so, else the end. "" if nothing came within `wait_s`.

        `text` is Ray's account of a death, which names the process (`pid: 4711`, `PID=4711`), or a task's name.
        """
        began = changed = time.monotonic()
        with self._changed:
            found = self._find(text)
            # Until the first line comes; then until none came for a while. Lines of others wake this too.
            while (left := (changed + QUIET_S if found else began + wait_s) - time.monotonic()) > 0:
                if time.monotonic() >= began + wait_s:
                    break
                self._changed.wait(left)
                if (now := self._find(text)) != found:
                    found, changed = now, time.monotonic()
        return found

    def _find(self, text: str) -> str:
        for (_, pid), worker in reversed(self._by_worker.items()):
            if (said := worker.text()) and (_names(text, pid) or (worker.name and worker.name == text)):
                return said
        return ""


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
