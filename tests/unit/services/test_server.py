"""The services as processes: start, stop, refusals, and no orphans."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentflow.errors import UserError
from agentflow.services.listen import check_host
from agentflow.services.server import LocalService

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "agentflow.services"]
HEAVY = ("torch", "transformers", "datasets", "trl", "ray", "prefect", "pyarrow.dataset")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_until_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            # An orphan that nobody reaps stays a zombie in some containers; it holds nothing any more.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_the_process_ends_with_its_block_and_can_be_started_again_but_not_twice() -> None:
    service = LocalService("teacher")
    with service:
        pid, port = service.pid, int(service.url.rpartition(":")[2])
        assert service.base_url == f"http://127.0.0.1:{port}/v1"
        assert service.stats()["requests"] == 0
        with pytest.raises(UserError, match="already running"):
            service.start()
    assert wait_until_gone(pid)
    assert not is_listening(port)
    with pytest.raises(UserError, match="not running"):
        service.stats()
    with service:
        assert service.pid != pid
    service.stop()


def test_a_taken_port_is_named_and_ends_with_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("teacher", "--port", str(port))
        assert result.returncode == 2
        assert f"port {port} on 127.0.0.1 is in use" in result.stderr and "Traceback" not in result.stderr
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use"):
            LocalService("teacher", port=port).start()


def test_another_host_is_refused() -> None:
    result = run("search", "--host", "0.0.0.0")
    assert result.returncode == 2
    assert "0.0.0.0" in result.stderr and "127.0.0.1" in result.stderr and result.stdout == ""
    for host in ("::", "localhost.example", "192.168.1.5", ""):
        with pytest.raises(UserError, match="refused"):
            check_host(host)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("teacher", "--wrong-rate", "1.5"), "1.5"),
        (("teacher", "--known", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("teacher", "--api-key-env", "AGENTFLOW_NO_SUCH_KEY"), "AGENTFLOW_NO_SUCH_KEY"),
    ],
)
def test_wrong_options_are_one_message_and_code_2(arguments: tuple[str, ...], named: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert named in result.stderr and "Traceback" not in result.stderr


def test_the_ready_line_is_json_and_faults_come_from_a_file(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"kind": "status", "status": 418}]')
    command = [*COMMAND, "teacher", "--faults", str(faults)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["service"], ready["pid"]) == ("teacher", process.pid)
        port = int(ready["url"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 418"
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /stats HTTP/1.1\r\nhost: rebound.example\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"
        process.terminate()


def test_a_service_is_gone_after_kill_9_of_its_parent() -> None:
    code = (
        "import time\n"
        "from agentflow.services.server import LocalService\n"
        "service = LocalService('teacher').start()\n"
        "print(service.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        os.kill(parent.pid, signal.SIGKILL)
    assert wait_until_gone(pid)


def test_a_service_that_is_slow_to_start_is_stopped_and_named() -> None:
    with pytest.raises(UserError, match="not ready after 0"):
        LocalService("teacher", start_timeout_s=0.0).start()


def test_a_service_imports_nothing_heavy() -> None:
    code = (
        "import sys, agentflow.services.__main__, agentflow.services.teacher, agentflow.services.search\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
