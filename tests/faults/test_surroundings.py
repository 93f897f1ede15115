"""What is around a run fails: the disk is full, the Prefect server dies, somebody ends the run, bytes rot. And keys
stay where they belong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from processes import SETTINGS, DataProcess, Undisturbed, paid, visible

from agentflow.artifacts.artifact import Artifact
from agentflow.services.server import LocalService
from flows.local import free_port

pytestmark = pytest.mark.faults
# The last paid data stage; the loss filter behind it costs time and pays nothing.
UNTIL = "tool_insertion"
CANARY = "sk-canary-7f3e9b1c5d"


# ---------------------------------------------------------------- full disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[list[str]]:
    """A command prefix that runs what follows in a mount namespace where `tmp_path` is a disk of 4 MB."""
    keeper = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", f"mount -t tmpfs -o size=4m none {tmp_path} && echo ready && exec sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdout is not None and keeper.stderr is not None
    if keeper.stdout.readline() != "ready\n":
        pytest.skip(f"no file system can be mounted in a namespace of one's own here: {keeper.stderr.read().strip()}")
    yield ["nsenter", "-t", str(keeper.pid), "-U", "-m", "--preserve-credentials"]
    keeper.kill()
    keeper.wait()


def inside(prefix: list[str], *command: str) -> str:
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Prints the stages whose artifact is visible, each verified.
VERIFY = """
import sys; from pathlib import Path; from agentflow.artifacts.artifact import Artifact
for folder in sorted(Path(sys.argv[1]).glob("artifacts/*/[!.]*")):
    Artifact(folder).verify()
    print(folder.parent.name)
"""


def fill(prefix: list[str], path: Path, free_kb: int) -> None:
    """Leave only `free_kb` kB of the small disk."""
    inside(prefix, "dd", "if=/dev/zero", f"of={path}", "bs=1024", f"count={4096 - free_kb}")


def test_the_command_says_that_the_disk_is_full_and_leaves_nothing_half_written(
    small_disk: list[str], tmp_path: Path, prefect_api: str
) -> None:
    fill(small_disk, tmp_path / "filler", 300)
    command = [*small_disk, sys.executable, "-m", "flows.cli", "run", "smoke", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (message,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert message.startswith("error: ") and "No space left on device" in message and str(tmp_path) in message
    assert "free" in message  # what to do
    assert "base_model" not in inside(small_disk, sys.executable, "-c", VERIFY, str(tmp_path)).split()


def test_a_full_disk_fails_the_run_in_words_and_the_next_one_goes_on(
    small_disk: list[str],
    services: tuple[LocalService, LocalService],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    filler = tmp_path / "filler"
    fill(small_disk, filler, 250)
    said = DataProcess(tmp_path, services, SETTINGS, wrapper=small_disk, until=UNTIL).fail()
    message = said.strip().splitlines()[-1]
    assert message.startswith("error: ") and ("No space left on device" in message or "disk is full" in message), said
    before = inside(small_disk, sys.executable, "-c", VERIFY, str(tmp_path)).split()

    inside(small_disk, "rm", str(filler))
    result = DataProcess(tmp_path, services, SETTINGS, wrapper=small_disk, until=UNTIL).finish()
    assert result["digests"] == undisturbed.until(UNTIL)
    assert {name for name, status in result["status"].items() if status == "reused"} == set(before)
    print(f"{message[:200]!r}; {paid(services) - undisturbed.paid} calls paid again")
    # An answer that could not be stored was paid for nothing; each process can have that many under way.
    assert paid(services) <= undisturbed.paid + 2 * (2 + 16)


# ---------------------------------------------------------------- Prefect server
class OwnServer:
    """A Prefect server that can be killed and started again on the same port over the same database."""

    def __init__(self, home: Path) -> None:
        self.port = free_port(None, "test server")
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        database = f"sqlite+aiosqlite:///{self._home / 'prefect.db'}"
        environment = {**os.environ, "PREFECT_API_DATABASE_CONNECTION_URL": database}
        environment.pop("PREFECT_API_URL", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.api}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError("the Prefect server did not start")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    server = OwnServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def test_a_prefect_server_that_dies_and_comes_back_costs_no_second_call(
    own_server: OwnServer,
    services: tuple[LocalService, LocalService],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    environment: dict[str, str | None] = {"PREFECT_API_URL": own_server.api}
    run = DataProcess(tmp_path, services, SETTINGS, environment, until=UNTIL)
    assert run.wait_until(lambda: paid(services) >= 6)
    own_server.kill()
    time.sleep(1)
    own_server.start()
    code = run.process.wait(300)
    print(f"the run whose server died ended with {code}")
    # Whether that run could go on is Prefect's business; what it had paid for is not lost in either case.
    assert DataProcess(tmp_path, services, SETTINGS, environment, until=UNTIL).finish()["digests"] == undisturbed.until(
        UNTIL
    )
    assert paid(services) == undisturbed.paid


# ---------------------------------------------------------------- SIGTERM
@pytest.mark.parametrize(
    "stage, slow",
    [
        ("traces", ["--set", "teacher.local.latency_ms=20000", "--set", "teacher.concurrency=1"]),
        ("sft", ["--set", "sft.settings.max_steps=5000"]),  # Ray Train waits in ways of its own
    ],
)
def test_sigterm_ends_a_run_soon_with_a_report_and_without_orphans(stage: str, slow: list[str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", "smoke", "--root", str(tmp_path), *slow],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        progress = tmp_path / "smoke" / "progress" / f"{stage}.json"
        deadline = time.monotonic() + 240
        while not progress.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) > 3
        run.terminate()
        code = run.wait(60)
        output.seek(0)
        said = output.read()
    assert code != 0, said
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    assert not visible(tmp_path).get(stage)
    report = (tmp_path / "smoke" / "report.json").read_text()
    assert '"failed"' in report


# ---------------------------------------------------------------- damage
def test_a_damaged_artifact_is_set_aside_and_made_again_without_paying(
    services: tuple[LocalService, LocalService], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assert DataProcess(tmp_path, services, SETTINGS, until=UNTIL).finish()["digests"] == undisturbed.until(UNTIL)
    before = paid(services)
    (folder,) = visible(tmp_path)["traces"]
    (data,) = folder.glob("*.arrow")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)
    result = DataProcess(tmp_path, services, SETTINGS, until=UNTIL).finish()
    assert result["digests"] == undisturbed.until(UNTIL) and paid(services) == before
    assert {name for name, status in result["status"].items() if status == "ran"} == {"traces"}
    assert any((folder.parent / ".corrupt").iterdir())
    Artifact(folder).verify()


# ---------------------------------------------------------------- keys
def test_no_byte_of_a_key_is_written_anywhere(tmp_path: Path) -> None:
    """Keys are really used (services that accept nothing else) and must be found nowhere: store, ledger, Prefect's
    database and logs, Ray's logs, output.
    """
    keys = {"OPENAI_API_KEY": f"{CANARY}-teacher", "TAVILY_API_KEY": f"{CANARY}-search"}
    ray_folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: Ray puts sockets into it
    try:
        with (
            LocalService("teacher", api_key=keys["OPENAI_API_KEY"], wrong_rate=0.1) as teacher,
            LocalService("search", api_key=keys["TAVILY_API_KEY"]) as search,
        ):
            settings = [
                f"teacher.base_url={teacher.base_url}",
                "teacher.api_key_env=OPENAI_API_KEY",
                f"search.base_url={search.base_url}",
                "search.api_key_env=TAVILY_API_KEY",
            ]
            environment = {
                **keys,
                "PREFECT_API_URL": None,
                "RAY_TMPDIR": str(ray_folder),
                "PREFECT_LOGGING_LEVEL": "DEBUG",
            }
            run = DataProcess(tmp_path, (), settings, environment, until=UNTIL)
            result = run.finish()
            assert set(teacher.stats()["by_status"]) == set(search.stats()["by_status"]) == {"200"}
            assert len({entry["key_sha256"] for entry in teacher.history() + search.history()}) == 2

            # A key that is refused ends in an error message; it must not stand in it either.
            wrong = {**environment, "OPENAI_API_KEY": f"{CANARY}-wrong"}
            refused = DataProcess(tmp_path, (), [*settings, "edition=2"], wrong, until=UNTIL)
            assert "auth" in refused.fail()
        assert len(result["digests"]) == 3
        written = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
        names = {path.name for path in written}
        assert {"ledger.db", "prefect.db", "server.log", "manifest.json"} <= names
        assert any(path.is_relative_to(ray_folder) and path.suffix in (".out", ".log") for path in written)
        hits = [str(path) for path in written if CANARY.encode() in path.read_bytes()]
        assert hits == []
        for said in (run.stdout(), run.stderr(), refused.stdout(), refused.stderr()):
            assert CANARY not in said
    finally:
        subprocess.run(["rm", "-rf", str(ray_folder)], check=True)
