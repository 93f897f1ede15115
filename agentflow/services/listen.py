"""Serve an ASGI app on 127.0.0.1 until told to stop. In: an app and a port; out: one ready line on stdout.

The ready line is JSON: {"service": "teacher", "url": "http://127.0.0.1:40123", "pid": 4711}.
It binds to the loopback address only; there is no way to ask for another one. A process started for a parent ends
with it, even after kill -9: it watches its standard input (closed by the kernel with the parent) and its parent's id.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import select
import socket
import sys
import threading

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentflow.errors import UserError

HOST = "127.0.0.1"
_WATCH_INTERVAL_S = 0.5
_MAX_OPEN_FILES = 65_536


class _DroppableProtocol(H11Protocol):
    """HTTP/1.1 that shows a request's connection to the app, so that scripted faults can close it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready_line: str) -> None:
        super().__init__(config)
        self._ready_line = ready_line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready_line, flush=True)


def check_host(host: str) -> None:
    """Raise UserError unless `host` is the loopback address."""
    if host != HOST:
        raise UserError(
            f"host {host!r} is refused: local services stand in for paid ones on this machine only and bind to "
            f"{HOST}; leave the host out, and give other machines a real endpoint by its base_url"
        )


def bind(port: int) -> socket.socket:
    """A socket bound to `port` on the loopback address; 0 takes a free one. Raises UserError if it cannot be had."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        # Two sockets may bind with SO_REUSEADDR as long as none listens: listen at once to find out now.
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {HOST} is in use; stop what listens there, give another port, or 0 for any free one"
            ) from error
        raise UserError(
            f"cannot listen on {HOST}:{port}: {error.strerror}; give a port from 1024 to 65535, or 0"
        ) from error
    return sock


def serve(app: ASGIApp, *, service: str, sock: socket.socket, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until the process `parent` is gone (None: nobody is watched)."""
    port = sock.getsockname()[1]
    ready_line = json.dumps({"service": service, "url": f"http://{HOST}:{port}", "pid": os.getpid()})
    _allow_many_connections()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    config = uvicorn.Config(
        # A web page in a browser on this machine must not reach the service under a name of its own.
        TrustedHostMiddleware(app, allowed_hosts=[HOST, "localhost"]),
        http=_DroppableProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        # Idle connections stay open longer than any client keeps them, so that none is closed just as it is reused.
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
    )
    asyncio.run(_AnnouncingServer(config, ready_line).serve(sockets=[sock]))


def _end_with(parent: int) -> None:
    """Exit at once when standard input is closed or the parent is another process (nothing here needs saving)."""
    while True:
        readable, _, _ = select.select([0], [], [], _WATCH_INTERVAL_S)
        closed = bool(readable) and os.read(0, 4096) == b""
        if closed or os.getppid() != parent:
            os._exit(0)


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fail(error: UserError) -> int:
    """Print a user's error without a traceback; returns the exit code 2."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
