"""What a run needs around it on one machine, started if it is not there and stopped again: Prefect server, Ray,
stand-in services.

A configured Prefect API (PREFECT_API_URL) or Ray cluster (RAY_ADDRESS) is used as it is and left running.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from agentflow.errors import UserError
from agentflow.services.server import LocalService
from flows.recipes import Recipe

SERVER_START_S = 120.0
QUIET = {
    # Lines of no use to a person who watches a run.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def free_port(wanted: int | None, what: str) -> int:
    """`wanted` if it is free, else any free port if none was wanted. Raises UserError for a port in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise UserError(
                f"{what} port {wanted} is in use on 127.0.0.1; stop what listens there or give another --port"
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def prefect_server(root: Path, port: int | None, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Address of the UI of the configured Prefect server, or of one started here whose history stays below `root`.

    `meanwhile` is called while the server starts, when PREFECT_API_URL is known already.
    """
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    configured = get_current_settings().api.url
    if configured:
        meanwhile()
        yield configured.removesuffix("/api")
        return
    chosen = free_port(port, "Prefect server")
    url = f"http://127.0.0.1:{chosen}"
    home = (root / ".prefect").absolute()
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        # The UI asks port 4200 unless it is told otherwise.
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with open(home / "server.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(chosen)],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    try:
        # Ray workers read the environment, this process its settings, which were made before.
        os.environ["PREFECT_API_URL"] = f"{url}/api"
        meanwhile()
        _wait_for(f"{url}/api/health", process, home / "server.log")
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            try:
                yield url
            finally:
                # Logs are sent in the background: what is still queued would find the server gone.
                APILogWorker.drain_all(timeout=5)
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        _stop(process)


def _end_with_parent() -> None:
    """Ask Linux to end this child when its parent is gone, however it went (kill -9 leaves no orphan server)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            free_mb = shutil.disk_usage(log.parent).free / 1e6
            full = f"only {free_mb:.1f} MB are free in {log.parent}: free space and run again; " if free_mb < 50 else ""
            raise UserError(
                f"the Prefect server ended at once (exit {process.returncode}); {full}its last lines: {_tail(log)}"
            )
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise UserError(f"the Prefect server did not answer within {SERVER_START_S:.0f} s; look at {log}")


def _tail(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def ray_cluster(cpus: int) -> Iterator[None]:
    """Ray, connected: the cluster at RAY_ADDRESS, or a local one with `cpus` cores."""
    import ray

    if ray.is_initialized():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS")
    # Workers must find our packages also when the command runs outside the checkout.
    runtime_env = {"env_vars": {name: os.environ[name] for name in ("PREFECT_API_URL",) if name in os.environ}}
    if address:
        ray.init(address=address, log_to_driver=False, runtime_env=runtime_env)
    else:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_env,
        )
    # ray.init replaces the SIGTERM handler; without the old one a cancelled flow would not end as Cancelled.
    signal.signal(signal.SIGTERM, previous)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def local_services(recipe: Recipe) -> Iterator[tuple[str | None, str | None]]:
    """Addresses of the stand-ins for teacher and search; None for a service that is configured for real or not used."""
    with ExitStack() as stack:
        teacher = search = None
        if recipe.teacher.base_url is None and (
            recipe.traces.origin == "teacher" or recipe.tool_insertion.lookups != "none"
        ):
            local = recipe.teacher.local
            options: dict[str, Any] = {
                "wrong_rate": local.wrong_rate,
                "seed": local.seed,
                "world_seed": local.world_seed,
                "latency_ms": local.latency_ms,
            }
            teacher = stack.enter_context(LocalService("teacher", known=local.known, **options)).base_url
        if recipe.search.base_url is None and "Search" in recipe.tools.names:
            corpus = recipe.search.local
            where: dict[str, Any] = {"corpus": corpus.corpus} if corpus.corpus else {"world_seed": corpus.world_seed}
            search = stack.enter_context(LocalService("search", latency_ms=corpus.latency_ms, **where)).base_url
        yield teacher, search
