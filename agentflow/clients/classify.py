"""What a service's refusal means: status, headers, body and broken connections as typed failures.

In: what HTTP gave. Out: one `ServiceFailure` of `agentflow.errors`, with what the service asked for (`retry_after_s`)
and a short message without secrets. Decides nothing about waiting or repeating; see `retry.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx
import httpx2

from agentflow.errors import (
    AuthFailed,
    CallTimeout,
    ConnectionFailed,
    MalformedAnswer,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    ServiceFailure,
)
from agentflow.ledger import Cost, Refusal

MAX_ANSWER_BYTES = 16 * 1024 * 1024
# The longest answers of today's models are below 1 MB; a larger body is a defect or an attack.
_MESSAGE_CHARACTERS = 300
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
_QUOTA_STATUS = {402, 432, 433}
# 402: DeepSeek's and OpenRouter's empty account; 432, 433: Tavily's plan and pay-as-you-go limits.
_PERHAPS_DONE = {408, 504, 522, 524}
# Somebody gave up waiting: the service, a gateway, or Cloudflare (522, 524). Behind it the work may go on.


def scrub(message: str, secrets: Iterable[str]) -> str:
    """`message` on one line, cut to a readable length, with every secret replaced by [key]."""
    for secret in secrets:
        message = message.replace(secret, "[key]")
    message = " ".join(message.split())
    return message if len(message) <= _MESSAGE_CHARACTERS else message[:_MESSAGE_CHARACTERS] + "..."


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` (number or HTTP date) or `retry-after-ms` ask for; None if absent or unreadable.

    A date is compared with the answer's own `Date` where there is one, so that a wrong local clock does no harm.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    until = _http_date(headers.get("retry-after"))
    if until is None:
        return None
    now = _http_date(headers.get("date")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _http_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def from_status(
    status: int, headers: Mapping[str, str], body: str, *, service: str, secrets: Iterable[str]
) -> ServiceFailure:
    """The failure that an answer with any other status than 200 means."""
    codes, words = _error_of(body)
    message = scrub(f"{service} answered {status}: {words}" if words else f"{service} answered {status}", secrets)
    wait = retry_after_s(headers)
    if status in _QUOTA_STATUS or (status == 429 and codes & _QUOTA_CODES):
        return QuotaExhausted(message, status=status)
    if status in (401, 403):
        return AuthFailed(message, status=status)
    if status == 429:
        return RateLimited(message, retry_after_s=wait, status=status)
    if status == 408:
        return CallTimeout(message, retry_after_s=wait, status=status)
    if status >= 500 or status == 425:
        return ServerFailed(message, retry_after_s=wait, status=status)
    if status < 300:
        return MalformedAnswer(message + " where only 200 carries an answer", status=status)
    return RequestRejected(message, status=status)


def refusal(failure: ServiceFailure) -> Refusal:
    """An attempt that was answered without a usable answer, with what it cost.

    That is nothing where the service refused the work or failed at it (429 and other 4xx, 500, 502, 503, 529: providers
    bill answers), and unknown, so that the worst case is counted, where it may have done it: a body nobody can use, or
    a status by which somebody gave up waiting (408, 504, 522, 524).
    """
    unknown = isinstance(failure, MalformedAnswer) or failure.status in _PERHAPS_DONE
    return Refusal(failure, None if unknown else Cost())


def _error_of(body: str) -> tuple[set[str], str]:
    """Machine-readable codes and the words of an error body of OpenAI's or Tavily's shape; else the raw text."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return set(), body
    if not isinstance(data, dict):
        return set(), body
    error = data.get("error", data.get("detail", data))
    if not isinstance(error, dict):
        return set(), str(error)
    codes = {str(error[name]) for name in ("code", "type") if error.get(name) is not None}
    return codes, str(error.get("message") or error.get("error") or body)


def from_transport(error: BaseException, *, service: str, secrets: Iterable[str]) -> tuple[ServiceFailure, bool]:
    """The failure that an exception of the HTTP libraries means, and whether the request surely never left.

    The openai client's aiohttp transport reports a dropped connection as a timeout while connecting, so what decides
    is the whole chain of causes, the most telling kind first.
    """
    chain = _causes(error)
    message = scrub(f"{service}: {_words(chain)}", secrets)

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if among(aiohttp.ClientConnectorError, httpx.ConnectError, httpx2.ConnectError, ConnectionRefusedError):
        return ConnectionFailed(message), True
    if among(httpx.DecodingError, httpx2.DecodingError):
        return MalformedAnswer(message), False
    if among(aiohttp.ConnectionTimeoutError):
        return CallTimeout(message), True
    if among(aiohttp.ServerTimeoutError, TimeoutError):
        return CallTimeout(message), False
    if among(aiohttp.ClientError, ConnectionError):
        return ConnectionFailed(message), False
    if among(httpx.ConnectTimeout, httpx2.ConnectTimeout, httpx.PoolTimeout, httpx2.PoolTimeout):
        return CallTimeout(message), True
    if among(httpx.TimeoutException, httpx2.TimeoutException):
        return CallTimeout(message), False
    return ConnectionFailed(message), False


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    return chain


def _words(chain: list[BaseException]) -> str:
    inner = next((cause for cause in reversed(chain) if str(cause)), chain[0])
    return f"{type(inner).__name__}: {inner}"


class CappedStream(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """A response body that fails as MalformedAnswer beyond `limit` bytes instead of filling the memory."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._stream:
            seen += len(chunk)
            if seen > self._limit:
                raise MalformedAnswer(f"the answer is larger than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def cap_answer(response: httpx.Response | httpx2.Response) -> None:
    """Event hook for both HTTP libraries: bound what is read of an answer.

    Compressed answers, which the clients do not ask for, get a smaller bound because they grow when unpacked.
    """
    compressed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = CappedStream(response.stream, MAX_ANSWER_BYTES // 64 if compressed else MAX_ANSWER_BYTES)


def read_json(content: bytes, *, service: str, secrets: Iterable[str]) -> dict[str, Any]:
    """The JSON object in a body, secrets taken out. Raises MalformedAnswer for HTML, cut or absurd JSON."""
    for secret in secrets:
        content = content.replace(secret.encode(), b"[key]")
    try:
        body = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        start = content[:80].decode("utf-8", "replace")
        failure = MalformedAnswer(
            scrub(f"{service}: the body is not JSON ({type(error).__name__}), it starts {start!r}", []), status=200
        )
        raise failure from None
    if not isinstance(body, dict):
        raise MalformedAnswer(f"{service}: the body is a JSON {type(body).__name__}, not an object", status=200)
    return body


def without_secrets(body: dict[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """`body` with every secret in it replaced by [key]: an answer that echoes a key must not keep it."""
    text = json.dumps(body) if (secrets := list(secrets)) else ""
    if not any(secret in text for secret in secrets):
        return body
    for secret in secrets:
        text = text.replace(secret, "[key]")
    clean: dict[str, Any] = json.loads(text)
    return clean


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
