"""Start and stop a local service as its own process. In: options; out: a running service and its counts.

    with LocalService("teacher", wrong_rate=0.1) as teacher:
        client = openai.AsyncOpenAI(base_url=teacher.base_url, api_key="local")

The process ends when the block is left, when `stop` is called, and when this process dies in whatever way: it holds
the other end of the service's standard input. It does not talk to the service's API itself, only to its counts.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import agentflow
from agentflow.errors import UserError
from agentflow.services.faults import Rule

ServiceName = Literal["teacher", "search"]
_KEY_VARIABLE = "AGENTFLOW_LOCAL_SERVICE_KEY"
_STOP_GRACE_S = 5.0
_CALL_TIMEOUT_S = 30.0


class LocalService:
    """One local service in a subprocess; a context manager, or `start` and `stop`.

    `options` are those of the command line with underscores: teacher `wrong_rate`, `seed`, `known`; search `corpus`;
    both `port` (0: any free one), `world_seed`, `latency_ms`. None leaves an option out. `faults` is the script in
    force from the start, `api_key` the only key accepted (handed over by environment, not on the command line).
    """

    def __init__(
        self,
        service: ServiceName,
        *,
        faults: Sequence[Rule | dict[str, Any]] = (),
        api_key: str | None = None,
        start_timeout_s: float = 60.0,
        **options: str | int | float | Path | None,
    ) -> None:
        self.service = service
        self._faults = faults
        self._api_key = api_key
        self._start_timeout_s = start_timeout_s
        self._options = {name: value for name, value in options.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._url: str | None = None

    def __enter__(self) -> LocalService:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> LocalService:
        """Start the process and wait until it serves. Raises UserError with its own message if it does not."""
        if self._process is not None:
            raise UserError(f"the local {self.service} is already running at {self._url}; stop it first")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives until stop)
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=self._environment(),
            # Its own session: Ctrl-C in a terminal is for the parent, which still needs the service to flush.
            start_new_session=True,
        )
        try:
            self._url = json.loads(self._ready_line())["url"]
            if self._faults:
                self.set_faults(self._faults)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process; safe to call twice."""
        process, self._process, self._url = self._process, None, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            # It watches its standard input and exits at once; the signal is for a pipe that a forked child still holds.
            process.stdin.close()
            process.terminate()
            try:
                process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    @property
    def url(self) -> str:
        """Scheme, host and port, e.g. "http://127.0.0.1:40123". Raises UserError if it is not running."""
        if self._url is None:
            raise UserError(f"the local {self.service} is not running; start it, or use it as a context manager")
        return self._url

    @property
    def base_url(self) -> str:
        """What the service's client takes: with "/v1" for the teacher (openai), bare for search (tavily)."""
        return f"{self.url}/v1" if self.service == "teacher" else self.url

    @property
    def pid(self) -> int:
        """Process id. Raises UserError if it is not running."""
        if self._process is None:
            raise UserError(f"the local {self.service} is not running; start it, or use it as a context manager")
        return self._process.pid

    def stats(self) -> dict[str, Any]:
        """The service's own counts, see `middleware.RequestLog.stats`."""
        return self._call("GET", "/stats")

    def history(self) -> list[dict[str, Any]]:
        """One entry a request in order of arrival: time, path, sha256 of the body, status, rule, paid, subject."""
        return self._call("GET", "/history")

    def reset(self) -> None:
        """Counts and history back to zero, and no more faults."""
        self._call("DELETE", "/history")
        self._call("DELETE", "/faults")

    def set_faults(self, rules: Sequence[Rule | dict[str, Any]]) -> None:
        """Replace the fault script. Raises UserError if a rule is wrong."""
        data = [rule.model_dump(mode="json", exclude_unset=True) if isinstance(rule, Rule) else rule for rule in rules]
        self._call("POST", "/faults", json.dumps(data))

    def clear_faults(self) -> None:
        """No more faults."""
        self._call("DELETE", "/faults")

    def _call(self, method: str, path: str, body: str | None = None) -> Any:
        host = self.url.removeprefix("http://")
        # http.client, because it never goes through a proxy from the environment.
        connection = http.client.HTTPConnection(host, timeout=_CALL_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise UserError(f"local {self.service} refused {method} {path} ({response.status}): {data.decode()}")
        return json.loads(data) if data else None

    def _command(self) -> list[str]:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._options.items()]
        if self._api_key is not None:
            flags.append(f"--api-key-env={_KEY_VARIABLE}")
        # -P: nothing is imported from the current folder.
        return [sys.executable, "-P", "-m", "agentflow.services", self.service, f"--parent={os.getpid()}", *flags]

    def _environment(self) -> dict[str, str]:
        package_root = str(Path(agentflow.__file__).resolve().parent.parent)
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if self._api_key is not None:
            environment[_KEY_VARIABLE] = self._api_key
        return environment

    def _ready_line(self) -> bytes:
        process = self._process
        assert process is not None and process.stdout is not None
        line = b""
        deadline = time.monotonic() + self._start_timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise UserError(
                        f"the local {self.service} was not ready after {self._start_timeout_s:g} s; "
                        f"give it more time (start_timeout_s){self._said()}"
                    )
                if not (block := os.read(process.stdout.fileno(), 4096)):
                    code = process.wait(_STOP_GRACE_S)
                    raise UserError(f"the local {self.service} did not start (exit code {code}){self._said()}")
                line += block
        return line

    def _said(self) -> str:
        """What the service wrote to stderr, for a message."""
        assert self._stderr is not None
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f": {text[-2000:]}" if text else ""
