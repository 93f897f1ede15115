"""A teacher that answers after a set time and costs nearly nothing, so that what is measured is the client.

`python -m benchmarks.paced_service --latency-ms 200` prints {"url", "pid"} when it is ready and ends with its standard
input. It speaks HTTP/1.1 (one request after another on a connection), answers sums ("What is 17 + 25?") like a
reasoning model, and keeps when every request arrived: GET /history, DELETE /history. Not for anything but benchmarks:
the local teacher of `agentflow.services` is the one with faults, keys and questions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from typing import Any

from agentflow.clients.connections import allow_connections

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_SUM = re.compile(rb"What is (\d+) \+ (\d+)\?")
MOST_CONNECTIONS = 6000
# With the share of the reasoning, as DeepSeek counts it: a client that misses it (Data Designer) counts for itself, and
# for that tries to download a tokenizer at every reply.
USAGE = {
    "prompt_tokens": 60,
    "completion_tokens": 90,
    "total_tokens": 150,
    "completion_tokens_details": {"reasoning_tokens": 80},
}


class _Service:
    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.reset()

    def reset(self) -> None:
        self.arrivals: list[float] = []
        self.in_flight = self.peak = 0


class _Connection(asyncio.Protocol):
    def __init__(self, service: _Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < whole:
            return
        head, body = bytes(self._buffer[:end]), bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        service = self._service
        if b" /history" in head[:64]:
            self._send(json.dumps({"arrivals": service.arrivals, "peak": service.peak}).encode())
            if head.startswith(b"DELETE"):
                service.reset()
        elif head.startswith(b"GET"):
            self._send(b'{"object": "list", "data": [{"id": "paced", "object": "model"}]}')
        else:
            service.arrivals.append(time.monotonic())
            service.in_flight += 1
            service.peak = max(service.peak, service.in_flight)
            self._loop.call_later(service.latency_s, self._answer, body)

    def _answer(self, body: bytes) -> None:
        self._service.in_flight -= 1
        asked = _SUM.search(body)
        a, b = (int(asked[1]), int(asked[2])) if asked else (0, 0)
        reasoning = f"The question asks for a sum of two numbers. Adding them gives {a}+{b} = {a + b}. " * 4
        message = {"role": "assistant", "content": f"Answer: {a + b}", "reasoning_content": reasoning}
        self._send(
            json.dumps(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "paced",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": USAGE,
                }
            ).encode()
        )

    def _send(self, content: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self._transport.write(head.encode() + content)


async def _serve(latency_s: float) -> None:
    service = _Service(latency_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(service), "127.0.0.1", 0, backlog=MOST_CONNECTIONS)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
    ended = asyncio.Event()
    threading.Thread(
        target=lambda: (sys.stdin.buffer.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()


class PacedService(contextlib.AbstractContextManager["PacedService"]):
    """The service as a process of its own, for a `with` block."""

    def __init__(self, latency_ms: float) -> None:
        self.latency_ms = latency_ms

    def __enter__(self) -> PacedService:
        command = [sys.executable, "-m", "benchmarks.paced_service", "--latency-ms", str(self.latency_ms)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.url = str(json.loads(self._process.stdout.readline())["url"])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def history(self, reset: bool = False) -> dict[str, Any]:
        """`arrivals` (seconds on this machine's monotonic clock) and `peak` requests in flight; `reset` empties it."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        try:
            connection.request("DELETE" if reset else "GET", "/history")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-ms", type=float, required=True)
    allow_connections(MOST_CONNECTIONS, service="paced_service")
    asyncio.run(_serve(parser.parse_args().latency_ms / 1000))


if __name__ == "__main__":
    main()
