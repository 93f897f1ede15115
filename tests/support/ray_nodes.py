"""A real Ray cluster on one machine: one `ray start --block` process per node, each with ports, a temporary folder and
cores of its own, and token authentication on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from flows.local import free_port

START_S = 180

OCCUPY = """
import sys
import ray

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)


@ray.remote(num_cpus=1, resources={"node:__internal_head__": 0.001})
class Occupier:
    def here(self) -> bool:
        return True


print("ready", flush=True)
sys.stdin.readline()
occupier = Occupier.remote()
ray.get(occupier.here.remote())
print("taken", flush=True)
sys.stdin.readline()
"""


class HeadOccupier:
    """Takes the head's one core when it is told to, so that what comes next runs on another node."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._expect("ready")

    def take(self) -> None:
        """Ask for the core: it is had as soon as what runs there ends."""
        self._tell()

    def wait(self) -> None:
        """Return when the core is taken."""
        self._expect("taken")

    def free(self) -> None:
        """Give it back."""
        self._tell()
        self._process.wait(60)

    def _tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == word, f"{said!r} instead of {word!r}"


class RayNodes:
    """Nodes by name; the head is "head". Use as a context manager; what is left of a node is killed at the end."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, dashboard: bool = False) -> None:
        # A short path: Ray puts sockets below it, whose names may have 107 bytes.
        self._home = Path(tempfile.mkdtemp(prefix="rn"))
        token = self._home / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **(environment or {}),
        }
        # What a process needs to use the cluster, without its address.
        self.port, self.dashboard_port = free_port(None, "gcs"), free_port(None, "dashboard")
        self._dashboard = dashboard
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def jobs(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self, name: str, cpus: int = 1) -> None:
        """Start a node and wait until it is part of the cluster."""
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
        ]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
        if name == "head":
            command += ["--head", f"--port={self.port}", f"--temp-dir={self._home / 'head'}"]
            command += [f"--include-dashboard={self._dashboard}", f"--dashboard-port={self.dashboard_port}"]
            # The agent carries out what the job server is asked for; at Ray's own port another head may be.
            command += [f"--dashboard-agent-listen-port={free_port(None, 'agent')}"]
        else:
            command += [f"--address={self.address}"]
        with open(self._home / f"{name}.log", "wb") as log:
            self._nodes[name] = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log(name):
            assert self._nodes[name].poll() is None and time.monotonic() < deadline, self.log(name)
            time.sleep(0.2)

    @contextlib.contextmanager
    def head_occupier(self) -> Iterator[HeadOccupier]:
        """Somebody who can take the head's core."""
        process = subprocess.Popen(
            [sys.executable, "-c", OCCUPY, self.address],
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield HeadOccupier(process)
        finally:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self._home / f"{name}.log").read_text(errors="replace")

    def workers(self, name: str) -> list[str]:
        """Titles of the node's processes (`ray::ScoringActor.score`), to see where work runs."""
        titles = []
        for process in psutil.Process(self._nodes[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                titles.append(" ".join(process.cmdline()))
        return titles

    def kill(self, name: str) -> None:
        """SIGKILL for a node and all its workers at once, as when the machine is gone."""
        process = self._nodes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
