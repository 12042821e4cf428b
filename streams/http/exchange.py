"""One HTTP request and its response over aiohttp's pool of connections and its parser, without its session: a
session's own objects take three quarters of the CPU time of a request.

    request ──► head and body in one write ──► connection of the pool ──► messages ──► body ──► release or close

A connection is released by aiohttp's rules: it is closed after an error, after an unread body, an upgrade, a
`Connection: close`, and while the request's body is still being written.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import aiohttp
from aiohttp import hdrs
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import HttpProcessingError
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from streams.http.auth import Signed
from streams.http.content import ACCEPT_ENCODING
from streams.http.once import Broken, Pool
from streams.http.policy import CONNECT_TIMEOUT, UpstreamPolicy
from streams.http.protocol import SWITCHING, AnswerProtocol
from streams.http.request import USER_AGENT, OutgoingRequest

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader

MAX_TARGETS = 10_000
"""Origins whose targets are kept."""
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
INFORMATIONAL = range(100, 200)
HEAD = "HEAD"
_NO_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that send no Content-Length without a body (RFC 9110, section 8.6)."""
_NONE: CIMultiDict[str] = CIMultiDict()
_NO_FIELDS: bytes = _serialize_headers("", _NONE)
"""The line breaks behind a request line."""


class Target:
    """An origin and its TLS context, as aiohttp's connector reads them from a request."""

    __slots__ = ("connection_key", "host", "port", "ssl", "url", "usual")

    proxy = server_hostname = None

    def __init__(self, url: URL, tls: ssl.SSLContext | None) -> None:
        self.url = url.origin()
        self.ssl: ssl.SSLContext | bool = tls or True
        self.port = url.port
        self.host = url.host_port_subcomponent or ""
        self.connection_key = ConnectionKey(
            url.raw_host or "", url.port, self.is_ssl(), self.ssl, None, None, None, None
        )
        self.usual: bytes = _serialize_headers("", _fields(self.host, USER_AGENT))
        """The fields of most requests, with the line breaks around them."""

    def is_ssl(self) -> bool:
        """Whether connections to it use TLS."""
        return self.url.scheme == "https"


class Reply:
    """A response whose body is still to be read. `release` must be called, and closes the connection if the body was
    not read to its end.
    """

    __slots__ = ("_connection", "content", "headers", "reason", "status", "url")

    def __init__(self, url: URL, connection: Connection, message: Any, content: StreamReader) -> None:
        self._connection = connection
        self.url = url
        self.status: int = message.code
        self.reason: str | None = message.reason
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content

    @property
    def content_length(self) -> int | None:
        """Return the bytes that the head declares."""
        length = self.headers.get(hdrs.CONTENT_LENGTH)
        return None if length is None else int(length)

    def release(self) -> None:
        """Release the connection, or close it if it cannot serve another request."""
        protocol = self._connection.protocol
        if protocol is None:
            return
        if protocol.writing_paused:  # the response came before the whole request was sent
            self._connection.close()
        else:
            self._connection.release()


class Exchange:
    """Sends requests over the connections of a pool, which is closed with it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._targets: dict[tuple[str, str, ssl.SSLContext | None], Target] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.pool.close()

    async def request(self, hop: OutgoingRequest, signed: Signed, policy: UpstreamPolicy) -> Reply:
        """Send a request once and return its response as soon as the head is there.

        Raises Unsent without a connection, Broken if it ended without a response, other errors of aiohttp's, and
        ValueError for a header that cannot be sent.
        """
        method, url = hop.method, signed.url
        target = self._target(url, policy.tls if hop.own else None)
        timeout = policy.timeout or TIMEOUT
        connection = await self.pool.connection(target, [], timeout)
        protocol = cast("AnswerProtocol", connection.protocol)
        reused = protocol.used
        try:
            protocol.begin(skip_payload=method == HEAD, read_timeout=timeout.sock_read)
            protocol.send(_written(method, url, target, signed.headers, hop.data))
            while True:
                message, content = await protocol.read()
                if message.code not in INFORMATIONAL or message.code == SWITCHING:
                    return Reply(url, connection, message, content)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            connection.close()
            raise Broken(reused=reused) from exc
        except HttpProcessingError as exc:
            connection.close()
            info = aiohttp.RequestInfo(url, method, CIMultiDictProxy(CIMultiDict()), url)
            raise aiohttp.ClientResponseError(info, (), status=exc.code, message=exc.message) from exc
        except BaseException:
            connection.close()
            raise

    def _target(self, url: URL, tls: ssl.SSLContext | None) -> Target:
        key = url.scheme, url.raw_authority, tls
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= MAX_TARGETS:
                self._targets.clear()
            target = self._targets[key] = Target(url, tls)
        return target


def _written(method: str, url: URL, target: Target, headers: Mapping[str, str], data: bytes | None) -> bytes:
    """Return the bytes of a request. Raises ValueError for control characters in its head."""
    line, bare = f"{method} {url.raw_path_qs} HTTP/1.1", data is None and method in _NO_BODY
    if bare and headers is USER_AGENT:
        return b"%b%b" % (_serialize_headers(line, _NONE)[: -len(_NO_FIELDS)], target.usual)
    fields = _fields(target.host, headers)
    if not bare:
        fields.setdefault(hdrs.CONTENT_LENGTH, str(len(data or b"")))
    head: bytes = _serialize_headers(line, fields)
    return head + data if data else head


def _fields(host: str, headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the fields of a head; a request's own ones replace the defaults."""
    fields = CIMultiDict({hdrs.HOST: host, hdrs.ACCEPT_ENCODING: ACCEPT_ENCODING})
    for name, value in headers.items():
        fields[name] = value
    fields.setdefault(hdrs.ACCEPT, "*/*")
    return fields
