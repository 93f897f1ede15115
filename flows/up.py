"""`agentflow up`: everything a machine needs to run deployments, in one command, and all of it gone when it ends.

Prefect server (or the configured one), a Ray on this machine (or the one at RAY_ADDRESS), work pool, limit, automations
and deployments, and a worker. In: options. Out: the address of the UI, then a wait for Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import psutil
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from agentflow.artifacts.store import Store
from agentflow.errors import ConfigError, UserError
from flows.output import WORKER_LOG
from flows.signals import terminable
from flows.watching import Deaths, Part, Silence, watch

FLOW_GRACE_S = 25.0
# Runs under way get this long to write their report and state after SIGTERM.
QUERY_S = 3
# A worker on this machine may ask for new runs more often than Prefect's 10 s.


@dataclass(frozen=True)
class UpOptions:
    """What `agentflow up` starts."""

    root: Path
    port: int | None = None
    # Of the Prefect server; None: 4200.
    cpus: int = 0
    # Of the Ray started here; 0: all cores.
    database_url: str | None = None
    # Of the Prefect server; None: SQLite below the root.
    prefect_file: Path | None = None
    # None: the one that ships.
    batch_limit: int = 8
    # Paid batches at work at once, over all runs.
    runs: int = 4
    # Runs at work at once on this machine.


def up(options: UpOptions, console: Console) -> None:
    """Start everything and wait until Ctrl-C or SIGTERM. Where it is up already, say so and return.

    Raises UserError for what cannot be started, with the reason; AgentflowError if a part of it dies later.
    """
    Store.open(options.root / "artifacts")
    check_database(options.database_url)
    with ExitStack() as stack:
        home = (options.root / ".up").absolute()
        home.mkdir(parents=True, exist_ok=True)
        running = stack.enter_context(_only_one(home))
        if running is not None:
            console.print(f"already up: {running}", highlight=False, soft_wrap=True)
            return
        stack.enter_context(terminable())
        _adopt_orphans()
        try:
            _serve(options, home, stack, console)
        except KeyboardInterrupt:
            console.print("stopping", highlight=False)
    console.print("stopped", highlight=False)


def _serve(options: UpOptions, home: Path, stack: ExitStack, console: Console) -> None:
    from prefect.settings import get_current_settings

    from flows.cluster import configured_address
    from flows.local import HEARTBEAT_S, QUIET, USUAL_PORT, check_prefect, prefect_server, ray_cluster
    from flows.registering import BATCH_LIMIT, DEPLOYMENTS, POOL, check_deployments, register

    prefect_file = (options.prefect_file or DEPLOYMENTS).absolute()
    check_deployments(prefect_file)  # before anything starts
    cpus = options.cpus or len(os.sched_getaffinity(0))
    own_ray, own_server = configured_address(None) is None, not get_current_settings().api.url
    # Ray's processes inherit the environment of the moment they start, and the worker that of the end of this function.
    changed = {**QUIET, "AGENTFLOW_ROOT": str(options.root.absolute()), "AGENTFLOW_BATCH_LIMIT": BATCH_LIMIT}
    changed[WORKER_LOG] = str(home / "worker.log")
    changed |= {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S), "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_S)}
    stack.enter_context(environment({name: os.environ.get(name, value) for name, value in changed.items()}))

    def start_ray() -> None:
        stack.enter_context(ray_cluster(cpus))

    parts: list[Part] = []
    ui = stack.enter_context(
        prefect_server(options.root, options.port, start_ray, options.database_url, parts.append, USUAL_PORT)
    )
    if own_ray:
        import ray

        address = ray.get_runtime_context().gcs_address
        stack.enter_context(environment({"RAY_ADDRESS": address, "AGENTFLOW_CPUS": str(cpus)}))
    # Nobody else is connected to a server that was started a moment ago, whatever its history says.
    names = register(prefect_file, options.batch_limit, Path.cwd(), alone=own_server)
    worker = Worker(POOL, options.runs, home / "worker.log", shared=not own_server)
    stack.callback(worker.stop)
    worker.start()
    (home / "up.json").write_text(json.dumps({"ui": ui, "pid": os.getpid()}))
    console.print(f"Prefect UI: {ui}", highlight=False, soft_wrap=True)
    console.print(f"deployments: {', '.join(names)}", highlight=False, soft_wrap=True)
    console.print(f"worker log: {home / 'worker.log'}\nCtrl-C stops everything", highlight=False, soft_wrap=True)
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    where = f"its log: {options.root / '.prefect' / 'server.log'}" if own_server else "it was not started here"
    watch(Deaths([*parts, worker], say), Silence(partial(check_prefect, f"{ui}/api"), where, say))


def check_database(url: str | None) -> None:
    """Raise ConfigError unless `url` names a database that a Prefect server can use, UserError if nothing is there."""
    allowed = ("postgresql+asyncpg://", "sqlite+aiosqlite:///")
    if url is not None and not url.startswith(allowed):
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"database URL of scheme {scheme!r}: a Prefect server takes postgresql+asyncpg://USER:PASSWORD@HOST/NAME; "
            "leave it out for SQLite below the root"
        )
    if url is None or not url.startswith("postgresql"):
        return
    try:
        place = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the database URL cannot be read: postgresql+asyncpg://USER:PASSWORD@HOST:PORT/NAME"
        ) from None
    if not place.host or place.host.startswith("/"):
        return  # a socket
    address = (place.host, place.port or 5432)
    try:
        with socket.create_connection(address, timeout=10):
            pass
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise UserError(f"no PostgreSQL answers at {where} ({error}); start it, or correct the database URL") from error


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """`values` in this process's environment for the length of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _only_one(home: Path) -> Iterator[str | None]:
    """None for the only `agentflow up` below this root; for another, where the first one's UI is.

    A lock of the kernel: it ends with its process, however that ended.
    """
    with open(home / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = home / "up.json"
            known = json.loads(state.read_text()) if state.exists() else {}
            yield f"Prefect UI: {known['ui']} (process {known['pid']})" if known else "it is still starting"
            return
        (home / "up.json").unlink(missing_ok=True)
        try:
            yield None
        finally:
            (home / "up.json").unlink(missing_ok=True)


class Worker:
    """The Prefect worker of this machine; it runs flows as processes."""

    name = "worker"

    def __init__(self, pool: str, limit: int, log: Path, *, shared: bool = True) -> None:
        self._pool, self._log = pool, log
        self._name = f"agentflow-{socket.gethostname()}"
        self._command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        self._command += ["--name", self._name, "--limit", str(limit), "--install-policy", "never"]
        self._process: subprocess.Popen[bytes] | None = None
        if shared:
            _check_name(pool, self._name)

    def start(self) -> None:
        """Start it, or start it again."""
        from flows.local import start_process

        self._process = start_process(self._command, self._log)

    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._process is not None and self._process.poll() is not None

    def said(self) -> str:
        """The last lines of its log."""
        from flows.local import tail

        return tail(self._log)

    def stop(self) -> None:
        """End it and every run on this machine, also those whose worker died before them."""
        if self._process is None:
            return
        runs = _runs()
        # The worker first and at once: asked to end, it would kill its runs without a moment for report and state.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _end([*runs])
        _close(set(runs.values()))
        _sign_off(self._pool, self._name)


def _check_name(pool: str, name: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        online = [worker.name for worker in client.read_workers_for_work_pool(pool) if worker.status == "ONLINE"]
    if name in online:
        raise UserError(
            f"a worker called {name!r} is online in work pool {pool!r} already; stop it (it may be another "
            "`agentflow up` against this server), or wait a minute if it was killed"
        )


def _sign_off(pool: str, name: str) -> None:
    """Take the worker off the server, which would call it online for 90 s more and so refuse the next one."""
    from prefect.client.orchestration import get_client

    place = {"work_pool_name": pool, "name": name}
    # A server that is gone, or never heard of the worker, has nothing to forget.
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.request("DELETE", "/work_pools/{work_pool_name}/workers/{name}", path_params=place)


def _close(flow_runs: set[str]) -> None:
    """Mark runs that could not say themselves how they ended: they would show as running for ever."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    # A server that is gone, or never heard of a run, has nothing to close.
    with suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
        for flow_run in map(UUID, flow_runs):
            state = client.read_flow_run(flow_run).state
            if state is None or not state.is_final():
                client.set_flow_run_state(flow_run, Crashed(message="`agentflow up` was stopped"), force=True)


def _runs() -> dict[psutil.Process, str]:
    """Processes of flow runs and what they started, whoever is their parent by now, with the ids of the runs."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended while we were looking
            flow_run = process.environ().get("PREFECT__FLOW_RUN_ID")
            if flow_run is not None:
                found[process] = flow_run
    return found


def _adopt_orphans() -> None:
    """Ask Linux to make this process the parent of runs whose worker dies, so that they are found and ended with it."""
    pr_set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def _end(processes: list[psutil.Process]) -> None:
    """SIGTERM, time to write report and state, SIGKILL."""
    _each(processes, psutil.Process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=FLOW_GRACE_S)
    _each(alive, psutil.Process.kill)


def _each(processes: list[psutil.Process], act: Callable[[psutil.Process], object]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            act(process)
