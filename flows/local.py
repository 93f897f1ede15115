"""What a run needs around it on one machine, started if it is not there and stopped again: Prefect server, Ray,
stand-in services.

A configured Prefect API (PREFECT_API_URL) or Ray cluster (RAY_ADDRESS) is used as it is and left running.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
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

from agentflow.artifacts.files import storage_errors
from agentflow.errors import UserError
from agentflow.services.server import LocalService
from flows.cluster import configured_address
from flows.recipes import Recipe
from tasks import worker_logs

SERVER_START_S = 120.0
USUAL_PORT = 4200
RAY_STARTS = 3
HEARTBEAT_S = 30
# How often a run tells its server that it lives; Prefect allows no shorter time. The automation "zombie runs" counts on
# it, and so do the deployment files (PREFECT_FLOWS_HEARTBEAT_FREQUENCY): Prefect's own is 180 s.
LEASE_STORAGE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
FILE_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
QUIET = {
    # Lines of no use to a person who watches a run.
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


class PrefectServer:
    """A Prefect server of this machine as a process.

    Raises UserError for a port in use, StoreError if its folder cannot be made.
    """

    name = "Prefect server"

    def __init__(self, root: Path, port: int | None, database_url: str | None) -> None:
        from prefect.settings import get_current_settings

        chosen = free_port(port, self.name)
        self.url = f"http://127.0.0.1:{chosen}"
        home = (root / ".prefect").absolute()
        # Leases belong to the slots of one database: a server of another one must not end them.
        own_home = home if database_url is None else home / "database"
        with storage_errors(f"make the folder {own_home} of Prefect's server"):
            own_home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"
        self._lease_lock = own_home / "concurrency_leases" / "expirations.lock"
        self._command = [sys.executable, "-m", "prefect", "server", "start", "--host=127.0.0.1", f"--port={chosen}"]
        self._environment = {
            **os.environ,
            "PREFECT_API_DATABASE_CONNECTION_URL": database_url or f"sqlite+aiosqlite:///{home / 'prefect.db'}",
            # Taken slots of a concurrency limit are in the database. In memory, Prefect's default, their leases would
            # end with the process, and a slot whose lease is unknown is never given back.
            LEASE_STORAGE: os.environ.get(LEASE_STORAGE, FILE_LEASES),
            "PREFECT_HOME": str(own_home),
            # What a person has configured is still read.
            "PREFECT_PROFILES_PATH": str(get_current_settings().profiles_path),
            # The UI asks port 4200 unless it is told otherwise.
            "PREFECT_SERVER_UI_API_URL": f"{self.url}/api",
            # Pages of other sites, open in the same browser, get no answer.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{self.url},http://localhost:{chosen}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again at the same address over the same history."""
        # A server that was killed while it wrote leaves this with its number, which in a container its successor has.
        self._lease_lock.unlink(missing_ok=True)
        self._process = start_process(self._command, self._log, self._environment)

    def wait_until_up(self) -> None:
        """Return when it answers. Raises UserError with its last lines if it ends instead, or takes too long."""
        assert self._process is not None, "start it first"
        _wait_for(f"{self.url}/api/health", self._process, self._log)

    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._process is not None and self._process.poll() is not None

    def said(self) -> str:
        """The last lines of its log."""
        return tail(self._log)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            stop_process(self._process)


@contextmanager
def prefect_server(
    root: Path,
    port: int | None,
    meanwhile: Callable[[], object] = lambda: None,
    database_url: str | None = None,
    own: Callable[[PrefectServer], object] = lambda _: None,
    usual_port: int | None = None,
) -> Iterator[str]:
    """Address of the UI of the configured Prefect server, or of one started here whose history stays below `root`, or
    in the PostgreSQL database at `database_url`. It listens at `port`, else at `usual_port`, else at any free one.

    `meanwhile` is called while the server starts, when PREFECT_API_URL is known already; `own` is given the server if
    one was started. Raises UserError if the configured server does not answer or if a port or database is given for it,
    StoreError if the history's folder cannot be made.
    """
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    configured = get_current_settings().api.url
    if configured:
        check_prefect(configured)
        for what, given in (("a port", port), ("a database", database_url)):
            if given is not None:
                raise UserError(
                    f"{what} is given for a Prefect server to be started here, but "
                    f"PREFECT_API_URL={_shown(configured)} names one that runs; leave it out (--port, --database-url, "
                    "PREFECT_API_DATABASE_CONNECTION_URL), or unset PREFECT_API_URL"
                )
        meanwhile()
        yield configured.removesuffix("/api")
        return
    server = PrefectServer(root, port or usual_port, database_url)
    api = f"{server.url}/api"
    server.start()
    try:
        # Ray workers read the environment, this process its settings, which were made before.
        os.environ["PREFECT_API_URL"] = api
        meanwhile()
        server.wait_until_up()
        own(server)
        with temporary_settings({PREFECT_API_URL: api}):
            try:
                yield server.url
            finally:
                # Logs are sent in the background: what is still queued would find the server gone.
                APILogWorker.drain_all(timeout=5)
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.stop()


def start_process(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process of its own group, with its output behind `log`, that ends with this one."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )


def check_prefect(api_url: str) -> str:
    """Version of the Prefect server at a configured API.

    Raises UserError if none answers there, if it does not let us in, or if this Prefect cannot work with its version.
    """
    import prefect
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    here = f"PREFECT_API_URL={_shown(api_url)}"
    no_server = f"what answers at {here} is no Prefect server; correct the address, which ends in /api"
    # Prefect's own client, because it sends what is configured: auth string, key, certificates.
    settings = temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: 0})
    try:
        with settings, get_client(sync_client=True, httpx_settings={"timeout": 10}) as client:
            if client.server_type is ServerType.CLOUD:
                return prefect.__version__
            server = str(client.api_version())
        ours, theirs = (tuple(map(int, version.split(".")[:2])) for version in (prefect.__version__, server))
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise UserError(
                f"the Prefect server at {here} does not let us in ({error.response.status_code}); set "
                "PREFECT_API_AUTH_STRING to its user:password"
            ) from error
        raise UserError(f"{no_server} ({error.response.status_code} for its version)") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"no Prefect server answers at {here} ({error}); start it (`agentflow up`), correct the "
            "address, or unset PREFECT_API_URL to have one started here"
        ) from error
    except ValueError as error:
        raise UserError(f"{no_server} (it names no version)") from error
    if theirs < ours or theirs[0] > ours[0]:
        raise UserError(
            f"the Prefect server at {here} is version {server}, this machine has {prefect.__version__}: it must be of "
            "the same major version and not of an older minor one; bring both to one version"
        )
    return server


def _shown(url: str) -> str:
    """Without the password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", url)


def end_with_parent() -> None:
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
                f"the Prefect server ended at once (exit {process.returncode}); {full}its last lines: {tail(log)}"
            )
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise UserError(f"the Prefect server did not answer within {SERVER_START_S:.0f} s; look at {log}")


def tail(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def ray_cluster(cpus: int, address: str | None = None) -> Iterator[None]:
    """Ray, connected: the cluster at `address` (or RAY_ADDRESS), or a local one with `cpus` cores.

    Raises UserError if no cluster answers at the address, or if it wants another token; then none is started instead.
    """
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    address = configured_address(address)
    # Inside a Ray Job the job names the same variables; without this Ray refuses the second naming, equal or not.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    # Workers must find our packages also when the command runs outside the checkout.
    runtime_env = {"env_vars": {name: os.environ[name] for name in ("PREFECT_API_URL",) if name in os.environ}}
    if address:
        check_ray(address)
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.ERROR, runtime_env=runtime_env)
        except AuthenticationError as error:
            raise UserError(
                f"the Ray cluster at RAY_ADDRESS={address} wants its token ({str(error).splitlines()[0]}); give this "
                "process the one its nodes have: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (docs/cluster.md)"
            ) from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            # Ray names no cause, also where it refused a wrong token; that something listens was seen above.
            hint = "; if it runs, this process may lack its token (RAY_AUTH_TOKEN_PATH, docs/cluster.md)"
            raise UserError(_no_ray(address, error) + hint) from error
    else:
        _start_ray(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=True,  # to tasks.worker_logs, not to the terminal
            logging_level=logging.ERROR,
            runtime_env=runtime_env,
        )
    worker_logs.capture()
    # ray.init replaces the SIGTERM handler; without the old one a cancelled flow would not end as Cancelled.
    signal.signal(signal.SIGTERM, previous)
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray(**settings: Any) -> None:
    """Start a local Ray; where the machine is so busy that Ray's own 30 s are not enough, start it once more."""
    import ray

    for attempt in range(RAY_STARTS):
        try:
            ray.init(**settings)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == RAY_STARTS - 1:
                raise UserError(
                    f"Ray did not start within 30 s, {RAY_STARTS} times: this machine is too busy; stop something"
                ) from error


def check_ray(address: str) -> None:
    """Raise UserError if nothing listens at `address`; without this Ray tries for a minute and then names no cause."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator:
        return  # "auto" or "local": only Ray knows where that is
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(_no_ray(address, error)) from error


def _no_ray(address: str, error: Exception) -> str:
    if address == "auto":
        return (
            f"no Ray runs on this machine (address auto): {str(error).splitlines()[0]}; make it a node of the cluster "
            "(ray start --address=HEAD:6379), give HOST:PORT of the head, or give no address to have a Ray started"
        )
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it (`agentflow up`, or `ray start --head`), "
        "correct the address, or unset RAY_ADDRESS to have a local one started"
    )


@contextmanager
def local_services(recipe: Recipe) -> Iterator[tuple[str | None, str | None]]:
    """Addresses of the stand-ins for teacher and search; None for a service that is configured for real or not used.

    A stand-in that runs already at AGENTFLOW_TEACHER_URL or AGENTFLOW_SEARCH_URL is used as it is and left running;
    on a cluster it must be an address that all nodes reach.
    """
    with ExitStack() as stack:
        teacher, search = os.environ.get("AGENTFLOW_TEACHER_URL"), os.environ.get("AGENTFLOW_SEARCH_URL")
        if (
            teacher is None
            and recipe.teacher.base_url is None
            and (recipe.traces.origin == "teacher" or recipe.tool_insertion.lookups != "none")
        ):
            local = recipe.teacher.local
            options: dict[str, Any] = {
                "wrong_rate": local.wrong_rate,
                "seed": local.seed,
                "world_seed": local.world_seed,
                "latency_ms": local.latency_ms,
            }
            teacher = stack.enter_context(LocalService("teacher", known=local.known, **options)).base_url
        if search is None and recipe.search.base_url is None and "Search" in recipe.tools.names:
            corpus = recipe.search.local
            where: dict[str, Any] = {"corpus": corpus.corpus} if corpus.corpus else {"world_seed": corpus.world_seed}
            search = stack.enter_context(LocalService("search", latency_ms=corpus.latency_ms, **where)).base_url
        yield teacher, search
