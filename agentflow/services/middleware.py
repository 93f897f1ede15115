"""What both services share around their work: faults are played, every request is counted and logged.

In: ASGI requests. Out: the service's own answers, or scripted faults; and these control paths, never counted:

    GET    /stats     counts since the start or the last reset
    GET    /history   one entry a request, oldest first (?last=N for the newest N)
    DELETE /history   counts and history back to zero
    GET    /faults    the rules in force and how often each fired
    POST   /faults    replace the rules by a JSON list
    DELETE /faults    no more faults

Counts are the service's own, so a test can hold a client's ledger against them: `paid` is work that was done,
whether or not the answer arrived. Keys are never kept: an entry has the sha256 of the one a request carried.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic, time
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentflow.errors import InputError
from agentflow.services.faults import Rule, Script, parse_rules

# Builds the JSON error of a service: (status, message, code) -> JSON value.
ErrorBody = Callable[[int, str, str | None], Any]

CONTROL_PATHS = frozenset({"/stats", "/history", "/faults"})
MAX_REQUEST_BYTES = 32 * 1024 * 1024
MAX_HISTORY = 100_000
_HTML = "<!doctype html><html><head><title>{0}</title></head><body><h1>{0}</h1><p>{1}</p></body></html>"


class RequestLog:
    """Counts and history of one service. Lives in one event loop."""

    def __init__(self) -> None:
        self.entries: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """All counts and the history back to zero; requests in flight stay in flight."""
        self.entries.clear()
        self.requests = 0
        self.paid = 0
        self.peak_in_flight = self.in_flight
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def stats(self) -> dict[str, Any]:
        """Counts as JSON data. `by_status` has "dropped" for answers that never arrived whole."""
        return {
            "requests": self.requests,
            "paid": self.paid,
            "by_status": dict(self.by_status),
            "by_fault": dict(self.by_fault),
            "answers": dict(self.answers),
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
        }

    @asynccontextmanager
    async def request(self, scope: Scope, body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Count one request; the block fills in `status`, `fault` and `paid` of the entry it is given."""
        entry: dict[str, Any] = {
            "time": time(),
            "method": scope["method"],
            "path": scope["path"],
            "sha256": hashlib.sha256(body).hexdigest(),
            "key_sha256": _key_sha256(scope),
            "subject": "",
            "status": "dropped",
            "rule": None,
            "fault": None,
            "paid": False,
            "seconds": 0.0,
        }
        started = monotonic()
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.entries.append(entry)
        try:
            yield entry
        finally:
            self.in_flight -= 1
            entry["seconds"] = round(monotonic() - started, 4)
            self.by_status[str(entry["status"])] += 1
            self.paid += bool(entry["paid"])
            if entry["fault"]:
                self.by_fault[entry["fault"]] += 1
            for label in entry.pop("labels", ()):
                self.answers[label] += 1


class ServiceMiddleware:
    """ASGI middleware around a service; see the top of this file."""

    def __init__(self, app: ASGIApp, *, service: str, error_body: ErrorBody, rules: list[Rule]) -> None:
        self.app = app
        self.service = service
        self.error_body = error_body
        self.script = Script(rules)
        self.log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in CONTROL_PATHS:
            response = await self._control(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._work(scope, receive, send)

    async def _control(self, request: Request) -> Response:
        match request.method, request.url.path:
            case "GET", "/stats":
                return JSONResponse({"service": self.service, **self.log.stats()})
            case "GET", "/history":
                last = request.query_params.get("last", "")
                entries = list(self.log.entries)
                return JSONResponse(entries[-int(last) :] if last.isdecimal() and int(last) else entries)
            case "DELETE", "/history":
                self.log.reset()
                return Response(status_code=204)
            case "GET", "/faults":
                rules = [rule.model_dump(mode="json", exclude_unset=True) for rule in self.script.rules]
                return JSONResponse(
                    [{"rule": rule, "fired": n} for rule, n in zip(rules, self.script.fired, strict=True)]
                )
            case "POST", "/faults":
                try:
                    self.script = Script(parse_rules(await request.body(), "the request"))
                except InputError as error:
                    return JSONResponse(self.error_body(400, str(error), "bad_faults"), status_code=400)
                return JSONResponse({"rules": len(self.script.rules)})
            case "DELETE", "/faults":
                self.script = Script([])
                return Response(status_code=204)
        return JSONResponse(self.error_body(405, f"{request.method} is not allowed here", None), status_code=405)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        if body is None:
            message = f"the request body is over {MAX_REQUEST_BYTES} bytes"
            await JSONResponse(self.error_body(413, message, None), status_code=413)(scope, receive, send)
            return
        async with self.log.request(scope, body) as entry:
            scope.setdefault("state", {})["entry"] = entry
            index = self.script.choose(scope["path"], body)
            rule = None if index is None else self.script.rules[index]
            if rule is not None:
                entry["rule"], entry["fault"] = index, rule.kind
                await asyncio.sleep(rule.delay_s)
            await self._play(rule, _Exchange(scope, receive, send, body, entry))

    async def _play(self, rule: Rule | None, exchange: _Exchange) -> None:
        if rule is None or rule.kind == "delay":
            await exchange.pass_through(self.app)
        elif rule.kind == "status":
            await exchange.answer(self._scripted(rule))
        elif rule.kind == "drop_before":
            await exchange.drop()
        else:
            status, headers, whole = await exchange.work(self.app)
            await _play_on_answer(rule, exchange, status, headers, whole)

    def _scripted(self, rule: Rule) -> Response:
        headers = rule.response_headers()
        if rule.html:
            return HTMLResponse(_HTML.format(rule.status, rule.message), status_code=rule.status, headers=headers)
        if isinstance(rule.body, str):
            return Response(rule.body, status_code=rule.status, headers=headers, media_type="application/json")
        body = self.error_body(rule.status, rule.message, rule.code) if rule.body is None else rule.body
        return JSONResponse(body, status_code=rule.status, headers=headers)


class _Exchange:
    """One request and the ways its answer can go."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: bytes, entry: dict[str, Any]) -> None:
        self.scope, self.send, self.body, self.entry = scope, send, body, entry
        self._receive = receive
        self._body_given = False

    async def receive(self) -> Message:
        """The body once, as the app expects it; afterwards whatever the connection says."""
        if self._body_given:
            return await self._receive()
        self._body_given = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def pass_through(self, app: ASGIApp) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.entry["status"] = message["status"]
            await self.send(message)

        await app(self.scope, self.receive, send)

    async def answer(self, response: Response) -> None:
        self.entry["status"] = response.status_code
        await response(self.scope, self.receive, self.send)

    async def work(self, app: ASGIApp) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Let the app answer into memory: status, headers without the length, body."""
        status, headers, parts = 500, [], []

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", []))
            else:
                parts.append(message.get("body", b""))

        await app(self.scope, self.receive, send)
        return status, [pair for pair in headers if pair[0].lower() != b"content-length"], b"".join(parts)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]], length: int) -> None:
        length_header = (b"content-length", str(length).encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length_header]})

    async def part(self, body: bytes, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def drop(self) -> None:
        """Close the connection once what was written is out, and wait until the server has noticed."""
        self.entry["status"] = "dropped"
        self.scope["state"]["transport"].close()
        while (await self._receive())["type"] != "http.disconnect":
            continue


async def _play_on_answer(
    rule: Rule, exchange: _Exchange, status: int, headers: list[tuple[bytes, bytes]], whole: bytes
) -> None:
    """Faults that come after the work: the answer is lost, cut, emptied or blown up."""
    exchange.entry["status"] = status
    if rule.kind == "drop_after":
        await exchange.drop()
    elif rule.kind == "drop_half":
        await exchange.start(status, headers, len(whole))
        await exchange.part(whole[: int(len(whole) * rule.fraction)], more=True)
        await exchange.drop()
    elif rule.kind in ("empty", "cut_json"):
        kept = b"" if rule.kind == "empty" else whole[: int(len(whole) * rule.fraction)]
        await exchange.start(status, headers, len(kept))
        await exchange.part(kept, more=False)
    else:
        await exchange.start(status, headers, max(rule.size_bytes, len(whole)))
        await exchange.part(whole, more=True)
        missing = max(0, rule.size_bytes - len(whole))
        while missing:
            step = min(missing, 1 << 16)
            await exchange.part(b" " * step, more=True)
            missing -= step
        await exchange.part(b"", more=False)


async def _read_body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_REQUEST_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _key_sha256(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return hashlib.sha256(value.removeprefix(b"Bearer ")).hexdigest()
    return None


def work_done(request: Request, subject: str, *labels: str) -> None:
    """Say that the service did its work for `request`: it counts as paid, under `labels`, about `subject`."""
    entry = request.scope["state"]["entry"]
    entry.update(paid=True, subject=subject[:500], labels=labels)


def error_response(error_body: ErrorBody, status: int, message: str, code: str | None = None) -> JSONResponse:
    """An error of the service's own shape."""
    return JSONResponse(error_body(status, message, code), status_code=status)


def has_key(request: Request, api_key: str | None) -> bool:
    """Whether the request carries the configured key (always, where none is configured)."""
    return api_key is None or request.headers.get("authorization", "") == f"Bearer {api_key}"
