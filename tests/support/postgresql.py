"""A PostgreSQL server of a test's own, by Debian's programs; without them the test is skipped with the reason."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.local import free_port


def _program(name: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian package: postgresql)")
    return found


@contextmanager
def postgresql(folder: Path, *databases: str) -> Iterator[str]:
    """HOST:PORT of a server whose user agentflow needs no password, with `databases` beside the database postgres."""
    initdb, pg_ctl, psql = _program("initdb"), _program("pg_ctl"), _program("psql")
    as_user: list[str] = []
    if getpass.getuser() == "root":  # the server refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("running as root and no runuser to become the postgres user")
        shutil.chown(folder, "postgres")
        for parent in (folder.parent, folder.parent.parent):
            parent.chmod(0o755)
        as_user = ["runuser", "-u", "postgres", "--"]
    port = free_port(None, "PostgreSQL")

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run(initdb, "-D", data, "-A", "trust", "-U", "agentflow", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run(pg_ctl, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        place = ["-q", "-h", "127.0.0.1", "-p", str(port), "-U", "agentflow", "-d", "postgres"]
        for name in databases:
            run(psql, *place, "-c", f"CREATE DATABASE {name}")
        yield f"127.0.0.1:{port}"
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "stop")
