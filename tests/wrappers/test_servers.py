"""The servers that runs need, Prefect, its database and Ray: which are used, and what is said of those that are not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import prefect
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from agentflow.errors import ConfigError, UserError
from flows.doctor import prefect_api as prefect_api_finding
from flows.local import FILE_LEASES, check_prefect, check_ray, prefect_server
from flows.up import check_database

OURS = tuple(map(int, prefect.__version__.split(".")[:2]))


@contextmanager
def answering(status: int, body: str | dict[str, str]) -> Iterator[str]:
    """Address of an API that says the same to every request, or what stands beside the end of its path."""

    class Same(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            said = body if isinstance(body, str) else body[self.path.removeprefix("/api")]
            self.wfile.write(said.encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Same)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()


def test_an_unreachable_prefect_or_ray_is_said_with_its_address() -> None:
    with pytest.raises(UserError, match="PREFECT_API_URL=http://127.0.0.1:9/api"):
        check_prefect("http://127.0.0.1:9/api")
    with pytest.raises(UserError, match="RAY_ADDRESS=127.0.0.1:9 .*start it"):
        check_ray("127.0.0.1:9")


def test_auto_without_a_cluster_on_this_machine_is_said(tmp_path: Path) -> None:
    """In a process namespace of its own: Ray looks for clusters among all processes."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine allows no process namespaces")
    code = "from flows.local import ray_cluster\nwith ray_cluster(1, 'auto'): pass"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*alone, sys.executable, "-c", code],
        env={**environment, "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "UserError: no Ray runs on this machine (address auto)" in last, done.stderr[-2000:]


@pytest.mark.parametrize(
    "given", [{"port": 4300}, {"database_url": "postgresql+asyncpg://me:canary-7d1f@host/prefect"}]
)
def test_a_port_or_database_for_a_server_that_others_run_is_refused(
    prefect_api: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    arguments = {"port": None, **given}
    with (
        pytest.raises(UserError, match=f"PREFECT_API_URL={prefect_api} names one that runs") as caught,
        prefect_server(tmp_path, **arguments),
    ):
        raise AssertionError("ignored")
    assert "canary" not in str(caught.value)
    with prefect_server(tmp_path, None, usual_port=4300) as ui:
        assert f"{ui}/api" == prefect_api


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, '"2.20.1"', "is version 2.20.1, this machine has 3.*bring both to one version"),
        (200, f'"{OURS[0]}.{OURS[1] - 1}.9"', "not of an older minor one"),
        (200, f'"{OURS[0] + 1}.0.0"', f"is version {OURS[0] + 1}.0.0, this machine has {OURS[0]}"),
        (200, "<html>a proxy</html>", "is no Prefect server; correct the address"),
        (404, "", "is no Prefect server.*404"),
        (401, '{"exception_message": "Unauthorized"}', "does not let us in .401.; set PREFECT_API_AUTH_STRING"),
    ],
)
def test_a_server_this_prefect_cannot_work_with_is_said(status: int, body: str, said: str) -> None:
    with answering(status, body) as url, pytest.raises(UserError, match=f"{url}.*{said}"):
        check_prefect(url)


def test_a_newer_server_of_the_same_major_version_is_worked_with_and_doctor_says_so() -> None:
    newer = f"{OURS[0]}.{OURS[1] + 1}.0"
    with answering(200, f'"{newer}"') as url, temporary_settings({PREFECT_API_URL: url}):
        assert check_prefect(url) == newer
        found = prefect_api_finding()
        assert found.verdict == "note" and newer in found.found and "bring both" in found.mend


@pytest.mark.parametrize(("kept", "verdict"), [("memory", "note"), ("filesystem", "ok")])
def test_doctor_says_that_a_server_forgets_leases(kept: str, verdict: str) -> None:
    storage = f"prefect.server.concurrency.lease_storage.{kept}"
    settings = json.dumps({"server": {"concurrency": {"lease_storage": storage}}})
    answers = {"/admin/version": f'"{prefect.__version__}"', "/admin/settings": settings}
    with answering(200, answers) as url, temporary_settings({PREFECT_API_URL: url}):
        found = prefect_api_finding()
    assert found.verdict == verdict and ("LEASE_STORAGE=" in found.mend) is (verdict == "note")


def test_doctor_reads_what_a_real_server_says_of_its_leases(prefect_api: str) -> None:
    found = prefect_api_finding()
    assert found.verdict == "ok", found
    said = httpx.get(f"{prefect_api}/admin/settings", timeout=30).json()["server"]["concurrency"]["lease_storage"]
    assert said == FILE_LEASES


def test_a_password_in_the_address_of_a_server_is_not_shown() -> None:
    with pytest.raises(UserError, match="PREFECT_API_URL=http://127.0.0.1:9/api") as caught:
        check_prefect("http://me:canary-7d1f@127.0.0.1:9/api")
    assert "canary" not in str(caught.value)


def test_pages_of_other_sites_get_no_answer_from_our_server(prefect_api: str) -> None:
    own = prefect_api.removesuffix("/api")
    for origin, allowed in ((own, True), ("http://elsewhere.example", False)):
        answer = httpx.get(f"{prefect_api}/health", headers={"Origin": origin}, timeout=30)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


def test_a_database_no_server_can_use_or_reach_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigError, match="postgresql\\+asyncpg://") as caught:
        check_database("postgresql://user:canary-7d1f@host/prefect")
    assert "canary" not in str(caught.value)
    with pytest.raises(UserError, match="no PostgreSQL answers at 127.0.0.1:9 ") as unreachable:
        check_database("postgresql+asyncpg://user:canary-7d1f@127.0.0.1:9/prefect")
    assert "canary" not in str(unreachable.value)
    check_database(None)
    with socket.create_server(("127.0.0.1", 0)) as anything:
        check_database(f"postgresql+asyncpg://user:secret@127.0.0.1:{anything.getsockname()[1]}/prefect")
