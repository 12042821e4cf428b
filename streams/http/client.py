"""The HTTP client: one aiohttp session for the process. Fetches with a cap on decoded bytes, follows redirects by
hand so that each hop is judged, and turns every way a fetch can fail into one error of `models.errors`.

The caller sets the deadline: nothing here waits longer than the task it runs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from models import strictjson
from models.documents import Body
from models.errors import InvalidDocument, InvalidRequest, TimedOut, TooLarge, Unreachable, UpstreamError

CONNECT_TIMEOUT = 5.0
"""Seconds for one connection to be made."""
READ_TIMEOUT = 10.0
"""Seconds that an upstream may be silent while its answer is awaited."""
KEEPALIVE = 30.0
"""Seconds that an idle connection is kept for the next request."""
DNS_TTL = 30
"""Seconds that a resolved name is kept."""
MAX_REDIRECTS = 5
"""Redirects followed for one request."""
USER_AGENT = "millrace"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_CONTENT = frozenset({"content-type", "content-encoding", "content-language", "content-location"})


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer of an upstream."""

    status: int
    body: Body


@dataclass(frozen=True, slots=True)
class _Hop:
    """What is sent to one address."""

    method: str
    url: URL
    headers: Mapping[str, str]
    data: bytes | None


class Client:
    """Opened with `async with`. `max_bytes` caps a decoded body."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None
        self.calls = 0

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=DNS_TTL, keepalive_timeout=KEEPALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),  # the default jar would share one request's cookies with another
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT),
            headers={"User-Agent": USER_AGENT},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: Any = None) -> Response:
        """Ask, following at most MAX_REDIRECTS redirects. `body`: a string is sent as text, anything else as JSON.

        Raises Unreachable, TimedOut, UpstreamError (also for a status of 400 and above), TooLarge,
        InvalidDocument (an undecodable body) and InvalidRequest.
        """
        headers, data = _with_body(headers, body)
        hop = _Hop(method, _parse(url), headers, data)
        for _ in range(MAX_REDIRECTS + 1):
            with translated(hop.url):
                answer = await self._exchange(hop)
            if isinstance(answer, Response):
                return answer
            hop = _redirected(hop, answer[0], answer[1])
        msg = f"{hop.url.host}: more than {MAX_REDIRECTS} redirects"
        raise UpstreamError(msg)

    async def _exchange(self, hop: _Hop) -> Response | tuple[int, str]:
        """Send one request; returns the answer, or status and location of a redirect."""
        assert self._session is not None
        self.calls += 1
        async with self._session.request(
            hop.method, hop.url, headers=hop.headers, data=hop.data, allow_redirects=False
        ) as response:
            status = response.status
            if status in _REDIRECTS:
                location = response.headers.get("Location")
                if not location:
                    msg = f"{hop.url.host} answered {status} without a Location"
                    raise UpstreamError(msg, status)
                return status, location
            if not 200 <= status < 300:  # noqa: PLR2004  the class of success, RFC 9110, section 15
                msg = f"{hop.url.host} answered {status} {response.reason or ''}".rstrip()
                raise UpstreamError(msg, status)
            content = await self._read(response)
            return Response(status, Body(content, response.content_type, response.charset))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._max_bytes
        declared = response.content_length
        if declared is not None and declared > limit and response.method != "HEAD":
            msg = f"the body has {declared} bytes; at most {limit} are taken"
            raise TooLarge(msg)
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                msg = f"the decoded body passes {limit} bytes"
                raise TooLarge(msg)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Translate what aiohttp raises. The messages name the host, never the path or query: those may hold secrets."""
    host = url.host or "?"
    try:
        yield
    except TimeoutError as exc:
        msg = f"{host} did not answer in time"
        raise TimedOut(msg) from exc
    except aiohttp.ClientPayloadError as exc:
        if "Can not decode content-encoding" in str(exc) or isinstance(exc.__cause__, aiohttp.ContentTypeError):
            msg = f"{host} sent a body that its content coding does not decode"
            raise InvalidDocument(msg) from exc
        msg = f"{host} broke off in the middle of the body"
        raise Unreachable(msg) from exc
    except aiohttp.ClientResponseError as exc:
        msg = f"{host} did not answer with valid HTTP: {exc.message}"
        raise UpstreamError(msg) from exc
    except aiohttp.InvalidURL as exc:
        msg = "url: is no URL that can be asked for"
        raise InvalidRequest(msg) from exc
    except aiohttp.ClientConnectorDNSError as exc:
        msg = f"{host} cannot be resolved"
        raise Unreachable(msg) from exc
    except aiohttp.ClientSSLError as exc:
        msg = f"{host}: TLS failed: {getattr(exc, 'certificate_error', None) or exc.os_error}"
        raise Unreachable(msg) from exc
    except aiohttp.ClientConnectorError as exc:
        msg = f"{host} cannot be connected to: {exc.os_error.strerror or exc.os_error}"
        raise Unreachable(msg) from exc
    except (aiohttp.ClientError, OSError) as exc:
        msg = f"the connection to {host} broke: {type(exc).__name__}"
        raise Unreachable(msg) from exc
    except ValueError as exc:
        msg = f"the request to {host} cannot be sent: {exc}"
        raise InvalidRequest(msg) from exc


def _parse(url: str) -> URL:
    try:
        parsed = URL(url, encoded=url.isascii())
        valid = parsed.host and parsed.scheme in ("http", "https")
    except ValueError:
        valid = False
    if not valid:
        msg = "url: is no http(s) URL"
        raise InvalidRequest(msg)
    return parsed


def _with_body(headers: Mapping[str, str], body: Any) -> tuple[Mapping[str, str], bytes | None]:
    if body is None:
        return headers, None
    text = isinstance(body, str)
    data = body.encode() if text else strictjson.dumps(body)
    if any(name.lower() == "content-type" for name in headers):
        return headers, data
    return {**headers, "Content-Type": "text/plain; charset=utf-8" if text else "application/json"}, data


def _redirected(hop: _Hop, status: int, location: str) -> _Hop:
    """Say what to send to where a redirect points (RFC 9110, section 15.4)."""
    try:
        target = hop.url.join(URL(location))
        valid = bool(target.host) and target.scheme in ("http", "https")
    except ValueError:
        valid = False
    if not valid:
        msg = f"{hop.url.host} redirected to what is no http(s) URL"
        raise UpstreamError(msg, status)
    if hop.url.scheme == "https" and target.scheme == "http":
        msg = f"{hop.url.host} redirected from https to http"
        raise UpstreamError(msg, status)
    method, headers, data = hop.method, hop.headers, hop.data
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):  # noqa: PLR2004
        method, data = "GET", None
        headers = {name: value for name, value in headers.items() if name.lower() not in _CONTENT}
    if target.origin() != hop.url.origin():
        headers = {name: value for name, value in headers.items() if name.lower() not in _CREDENTIALS}
    return _Hop(method, target, headers, data)

