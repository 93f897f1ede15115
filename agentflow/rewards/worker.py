"""The killable process that grades: `python -m agentflow.rewards.worker`, JSON lines on its standard input and output.

First line in: the setup and limits, answered by {"ready": true}. Every further line is one request, answered by one
line. A request that takes too long or too much memory ends this process; the other side starts another one.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

from agentflow.rewards.grading import GraderSetup, grade

_GRACE_S = 10
# Behind the deadline, which the other side keeps: only for a process whose other side is gone.
_DETAIL_CHARS = 300


def main() -> None:
    """Serve until standard input ends."""
    first = json.loads(sys.stdin.readline())
    setup = GraderSetup.model_validate(first["setup"])
    limit = int(first["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _say({"ready": True})
    for line in sys.stdin:
        # The signal's default ends the process even inside a regular expression, where no Python code runs.
        signal.alarm(int(first["timeout_s"]) + _GRACE_S)
        _say(_verdict(setup, line))
        signal.alarm(0)


def _verdict(setup: GraderSetup, line: str) -> dict[str, object]:
    try:
        return grade(setup, json.loads(line))
    except Exception as error:
        return {"failure": "grader_error", "detail": f"{type(error).__name__}: {error}"[:_DETAIL_CHARS]}


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
