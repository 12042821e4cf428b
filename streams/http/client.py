"""The HTTP client: one aiohttp session for the process. Fetches with a cap on decoded bytes, follows redirects by
hand so that each hop is judged, and turns every way a fetch can fail into one error of `models.errors`.

The caller sets the deadline: nothing here waits longer than the task it runs in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.message import Message
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from yarl import URL

from models.documents import Body
from models.errors import (
    AnswerError,
    Denied,
    InvalidDocument,
    InvalidRequest,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from streams.http.guard import DeniedAddress, Guard, why
from streams.http.hop import Hop, parse, redirected, with_body
from streams.http.limits import Hosts
from streams.http.retry import Retry, repeatable, retry_after
from streams.settings import DEFAULT_MAX_IN_FLIGHT

CONNECT_TIMEOUT = 5.0
"""Seconds for one connection to be made."""
KEEPALIVE = 30.0
"""Seconds that an idle connection is kept for the next request."""
DNS_TTL = 30
"""Seconds that a resolved name is kept."""
MAX_REDIRECTS = 5
"""Redirects followed for one request."""
SLOW = 1.0
"""Seconds: a request that its deadline ends sooner says nothing about the host."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Response(NamedTuple):
    """A whole answer of an upstream, what it says of caching, and the how manieth try it was."""

    status: int
    body: Body
    cache_control: str | None = None
    attempts: int = 1


class _Redirect(NamedTuple):
    """An answer that points elsewhere."""

    status: int
    location: str


class Client:
    """Opened with `async with`. `max_bytes` caps a decoded body, `max_in_flight` the requests under way at once;
    `guard` judges what may be reached, `retry` what is tried again.
    """

    def __init__(
        self, max_bytes: int, guard: Guard, *, max_in_flight: int = DEFAULT_MAX_IN_FLIGHT, retry: Retry | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._guard = guard
        self._retry = retry or Retry()
        self._slots = asyncio.Semaphore(max_in_flight)
        self.hosts = Hosts()
        self._session: aiohttp.ClientSession | None = None
        self.calls = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=DNS_TTL,
                keepalive_timeout=KEEPALIVE,
                resolver=self._guard.resolver(),
                socket_factory=self._guard.socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # the default jar would share one request's cookies with another
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None, *, deadline: float | None = None
    ) -> Response:
        """Ask, as often as the retry policy allows before `deadline` (monotonic seconds, which the caller enforces).

        `body`: a string is sent as text, anything else as JSON. Raises Denied, Unreachable, TimedOut, UpstreamError
        (also for a status of 400 and above), TooLarge, InvalidDocument (an undecodable body), InvalidRequest and
        Overloaded; the error's `attempts` says how often it was tried.
        """
        headers, data = with_body(headers, body)
        hop = Hop(method, parse(url), headers, data)
        attempt = 1
        while True:
            try:
                response = await self._follow(hop, deadline)
            except AnswerError as error:
                error.attempts = attempt
                pause = self._retry.pause(attempt, error) if repeatable(method, headers) else None
                if pause is None:
                    raise
                if deadline is not None and time.monotonic() + pause >= deadline:
                    error.hurried = True
                    raise
            else:
                return response if attempt == 1 else response._replace(attempts=attempt)
            await asyncio.sleep(pause)
            attempt += 1

    async def _follow(self, hop: Hop, deadline: float | None) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            self._guard.check(hop.url)
            answer = await self._send(hop, deadline)
            if isinstance(answer, _Redirect):
                hop = redirected(hop, *answer)
            else:
                return answer
        msg = f"{hop.url.host}: more than {MAX_REDIRECTS} redirects"
        raise UpstreamError(msg)

    async def _send(self, hop: Hop, deadline: float | None) -> Response | _Redirect:
        """Send one request within the host's limits and the worker's, and tell the host's breaker how it did."""
        host = self.hosts.of(hop.url.raw_authority)
        await host.enter(deadline)
        started: float | None = None
        ok: bool | None = True
        try:
            async with self._slots:
                started = time.monotonic()
                return await self._exchange(hop)
        except AnswerError as error:
            ok = _blame(error)
            if isinstance(error, UpstreamError) and error.retry_after is not None:
                host.hold(error.retry_after)
            raise
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # TimeoutError is an OSError
            translated = translate(exc, hop.url)
            ok = _blame(translated)
            raise translated from exc
        except asyncio.CancelledError:
            now = time.monotonic()
            late = deadline is not None and now >= deadline
            ok = False if late and started is not None and now - started >= SLOW else None
            raise
        finally:
            host.leave(ok=ok)

    async def _exchange(self, hop: Hop) -> Response | _Redirect:
        """Send one request; returns the answer, or status and location of a redirect."""
        assert self._session is not None
        self.calls += 1
        response = await self._session.request(
            hop.method, hop.url, headers=hop.headers, data=hop.data, allow_redirects=False
        )
        try:
            status = response.status
            if status in _REDIRECTS:
                location = response.headers.get("Location")
                if not location:
                    msg = f"{hop.url.host} answered {status} without a Location"
                    raise UpstreamError(msg, status)
                return _Redirect(status, location)
            if not 200 <= status < 300:  # noqa: PLR2004  the class of success, RFC 9110, section 15
                msg = f"{hop.url.host} answered {status} {response.reason or ''}".rstrip()
                raise UpstreamError(msg, status, retry_after(response.headers.get("Retry-After")))
            content = await self._read(response)
            body = Body(content, *_media(response.headers.get("Content-Type")))
            return Response(status, body, response.headers.get("Cache-Control"))
        finally:
            response.release()  # closes the connection if the body was not read to its end

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._max_bytes
        declared = response.content_length
        if declared is not None and declared > limit and response.method != "HEAD":
            msg = f"the body has {declared} bytes; at most {limit} are taken"
            raise TooLarge(msg)
        chunks: list[bytes] = []
        size = 0
        while chunk := await response.content.readany():
            size += len(chunk)
            if size > limit:
                msg = f"the decoded body passes {limit} bytes"
                raise TooLarge(msg)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _blame(error: AnswerError) -> bool | None:
    """Say what an error tells about its host: False it failed, True it did its part, None nothing."""
    match error:
        case UpstreamError(status=429) | Denied() | InvalidRequest():
            return None
        case UpstreamError(status=None) | Unreachable() | TimedOut():
            return False
    return not (isinstance(error, UpstreamError) and error.retryable)


def translate(exc: Exception, url: URL) -> AnswerError:  # noqa: C901, PLR0911  a table
    """Say in our words what aiohttp raised. The messages name the host, never path or query: those may hold secrets."""
    host = url.host or "?"
    match exc:
        case TimeoutError():
            return TimedOut(f"{host} did not answer in time")
        case aiohttp.ClientPayloadError() if "content-encoding" in str(exc):
            return InvalidDocument(f"{host} sent a body that its content coding does not decode")
        case aiohttp.ClientPayloadError():
            return Unreachable(f"{host} broke off in the middle of the body")
        case aiohttp.ClientResponseError():
            return UpstreamError(f"{host} did not answer with valid HTTP: {exc.message}")
        case aiohttp.InvalidURL():
            return InvalidRequest("url: is no URL that can be asked for")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{host} cannot be resolved")
        case aiohttp.ClientConnectorCertificateError():
            return Unreachable(f"{host}: TLS failed: {exc.certificate_error}")
        case aiohttp.ClientConnectorError(os_error=DeniedAddress(network=network)):
            return Denied(why(network))
        case aiohttp.ClientConnectorError():
            return Unreachable(f"{host} cannot be connected to: {exc.os_error.strerror or exc.os_error}")
        case aiohttp.ClientError() | OSError():
            return Unreachable(f"the connection to {host} broke: {type(exc).__name__}")
    return InvalidRequest(f"the request to {host} cannot be sent: {exc}")


@lru_cache(maxsize=256)
def _media(content_type: str | None) -> tuple[str, str | None]:
    """Return media type and charset of a Content-Type; an upstream says the same thing again and again."""
    message = Message()
    message["Content-Type"] = content_type or "application/octet-stream"
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else None
