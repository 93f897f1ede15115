"""A PostgreSQL server of one's own for the length of a block, from Debian's packages. Also used by the fault tests.

Started by root, it runs as the user `postgres`, because PostgreSQL refuses root.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.local import free_port

USER = "agentflow"


class PostgresMissing(Exception):
    """No PostgreSQL can be started here; the message says what is missing."""


def program(name: str) -> str:
    """Path of one of PostgreSQL's programs, of the newest version installed. Raises PostgresMissing."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        raise PostgresMissing(f"PostgreSQL is not installed: no {name} (Debian package: postgresql)")
    return found


@dataclass(frozen=True)
class Server:
    """A server that runs; its user needs no password."""

    address: str
    # HOST:PORT
    folder: Path
    # With all it writes; removed at the end.

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """Where one of its databases is."""
        return f"{scheme}://{USER}@{self.address}/{database}"


@contextmanager
def postgresql(*databases: str) -> Iterator[Server]:
    """A server that holds these databases and `postgres`, in a temporary folder. Raises PostgresMissing."""
    initdb, pg_ctl, createdb = program("initdb"), program("pg_ctl"), program("createdb")
    as_user: list[str] = []
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        if getpass.getuser() == "root":
            if shutil.which("runuser") is None:
                raise PostgresMissing("running as root and no runuser to become the postgres user")
            shutil.chown(folder, "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]
        port, data = str(free_port(None, "PostgreSQL")), f"{folder}/data"

        def run(*command: str) -> None:
            subprocess.run([*as_user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

        run(initdb, "-D", data, "-A", "trust", "-U", USER, "-E", "UTF8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run(pg_ctl, "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            for name in databases:
                run(createdb, "-h", "127.0.0.1", "-p", port, "-U", USER, name)
            yield Server(f"127.0.0.1:{port}", Path(folder))
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")
