"""The other side of the killable grader: asks it, kills it at the deadline, starts another one.

In: requests. Out: a `Verdict` for each. Whatever a completion makes of a grader (an endless regular expression, a
number of a million digits, all memory) costs that one completion, and is said by name.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentflow.errors import GraderFailed
from agentflow.rewards.grading import GraderSetup, Verdict

_log = logging.getLogger(__name__)
START_S = 120.0
# For a new process to import what it needs, on a busy machine.
MEMORY_BYTES = 4 << 30
# Address space of the process.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# It computes little, and must not take cores from the training.
_ROOT = Path(__file__).resolve().parents[2]


class Grader:
    """One persistent grading process. Use as a context manager; not for several threads at once."""

    def __init__(self, setup: GraderSetup, timeout_s: float, program: str = "agentflow.rewards.worker") -> None:
        """`program`: the module that is run."""
        self._setup, self._timeout_s, self._program = setup, timeout_s, program
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""

    def __enter__(self) -> Grader:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def ask(self, request: Mapping[str, Any]) -> Verdict:
        """The verdict on one request (see `grading.grade`). Raises GraderFailed if no process can be started."""
        if self._process is None or self._process.poll() is not None:
            # Ended between two requests (killed by the system for its memory): no fault of this completion.
            self._kill()
            self._start()
        try:
            answer = self._exchange(dict(request), self._timeout_s)
        except (EOFError, BrokenPipeError, json.JSONDecodeError) as error:
            return self._lost("grader_died", f"the grading process ended or said no JSON ({type(error).__name__})")
        except TimeoutError:
            return self._lost("grader_timeout", f"no verdict within {self._timeout_s:g} s")
        verdict = Verdict(**answer)
        if verdict.failure is not None:
            _log.warning("a completion could not be graded: %s: %s", verdict.failure, verdict.detail)
        return verdict

    def _lost(self, failure: str, detail: str) -> Verdict:
        _log.warning("a completion could not be graded: %s; another process takes over", detail)
        self._kill()
        return Verdict(failure=failure, detail=detail)

    def _start(self) -> None:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **_ONE_THREAD},
        )
        self._read = b""
        setup = {"setup": self._setup.model_dump(mode="json"), "memory_bytes": MEMORY_BYTES}
        try:
            self._exchange({**setup, "timeout_s": self._timeout_s}, START_S)
        except (EOFError, BrokenPipeError, TimeoutError, json.JSONDecodeError) as error:
            status = self._process.poll()
            self._kill()
            raise GraderFailed(
                f"the process that grades rollouts did not start within {START_S:g} s (exit status {status}); "
                "its last words are in the log above"
            ) from error

    def _exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a line and read a line. Raises EOFError or BrokenPipeError if the process is gone, TimeoutError."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block:
                raise EOFError
            self._read += block
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        # Not by the context manager: closing a pipe with unsent bytes in it would raise.
        process.wait()
        for stream in (process.stdout, process.stdin):
            try:
                assert stream is not None
                stream.close()
            except BrokenPipeError as error:
                _log.debug("a killed grader read no more: %s", error)
