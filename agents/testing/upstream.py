"""The upstream of a test: its replies, and the requests that it received."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from models import strictjson
from streams.config.settings import Settings
from streams.http.guard import literal

NO_CONTENT = frozenset({204, 304})
"""Statuses of responses without a body (RFC 9110, section 6.4.1)."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request as the upstream received it; `headers` are found whatever the case of their names."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError."""
        return strictjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. `body`: bytes and strings are sent unchanged, anything else as JSON.

    Content-Type, by the type of the body, and Content-Length are set unless `headers` have them.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def encode(self, method: str) -> bytes:
        """Return it as HTTP, for a request with this method."""
        kind, body = _encode(self.body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if body:
            headers.setdefault("content-type", kind)
        if "transfer-encoding" not in headers and self.status not in NO_CONTENT:
            headers.setdefault("content-length", str(len(body)))
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}", *(f"{name}: {headers[name]}" for name in headers)]
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        return head if method == "HEAD" or self.status in NO_CONTENT else head + body


class Upstream:
    """`replies` has the replies by URL, or by `"POST https://…"` for one method.

    A reply is a JSON value, a string or bytes (status 200); a Reply; an exception (OSError or aiohttp's: how the
    connection fails); a function of an UpstreamRequest that returns one of these; or a list of these, one for each
    request, the last one for all that follow. Write a JSON array as `Reply([…])`. Raises ValueError for a key that is
    not such a URL, and for an empty list.

    `requests` are those received, in order; `faults` are mistakes of the test itself, such as a missing reply.
    """

    def __init__(self, replies: Mapping[str, Any]) -> None:
        self._replies = {_key(text): _as_list(text, reply) for text, reply in replies.items()}
        self.requests: list[UpstreamRequest] = []
        self.faults: list[BaseException] = []

    def settings(self) -> Settings:
        """Return the default settings that allow, too, the addresses and ports of the replies' URLs."""
        origins = {URL(url) for _, url in self._replies}
        addresses = {str(address) for url in origins if (address := literal(url.host or "")) is not None}
        ports = {str(url.port) for url in origins}
        return Settings(allow_networks=",".join(sorted(addresses)), allow_ports=",".join(sorted(ports)))

    def reply(self, request: UpstreamRequest) -> Reply | Exception:
        """Return the reply to a request, or the error with which its connection fails."""
        self.requests.append(request)
        replies = self._replies.get((request.method, request.url)) or self._replies.get((None, request.url))
        if replies is None:
            return self._fault(AssertionError(self._unexpected(request)))
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        try:
            if callable(reply) and not isinstance(reply, type):
                reply = reply(request)
            if isinstance(reply, type) and issubclass(reply, BaseException):
                reply = reply()
            if isinstance(reply, BaseException):
                raise reply  # noqa: TRY301  as if a function had raised it
            made = reply if isinstance(reply, Reply) else Reply(reply)
            made.encode(request.method)
        except (OSError, aiohttp.ClientError) as exc:
            return exc
        except BaseException as exc:  # noqa: BLE001  `check` raises it in the test
            return self._fault(exc)
        return made

    def check(self) -> None:
        """Raise the first fault, once."""
        if self.faults:
            faults, self.faults = self.faults, []
            raise faults[0]

    def _fault(self, exc: BaseException) -> Exception:
        self.faults.append(exc)
        return aiohttp.ClientConnectionError("the test has no reply")

    def _unexpected(self, request: UpstreamRequest) -> str:
        known = "".join(f"\n  {method or 'any method'} {url}" for method, url in self._replies) or " nothing"
        return f"the test has no reply to this request:\n  {request.method} {request.url}\nknown:{known}"


def normal(url: URL) -> str:
    """Return a URL in a form to compare: without fragment, with a path, uniformly quoted."""
    quoted = URL(str(url))
    return f"{quoted.origin()}{quoted.raw_path_qs}"


def _key(text: str) -> tuple[str | None, str]:
    method, space, rest = text.partition(" ")
    url = URL(rest if space else text)
    if url.scheme not in ("http", "https") or not url.host:
        msg = f"invalid upstream {text!r}: use an http(s) URL, or a method, a space and a URL"
        raise ValueError(msg)
    return method.upper() if space else None, normal(url)


def _as_list(text: str, reply: Any) -> list[Any]:
    if not isinstance(reply, list):
        return [reply]
    if not reply:
        msg = f"{text!r}: an empty list has no reply; a JSON array is Reply([])"
        raise ValueError(msg)
    return list(reply)


def _encode(body: Any) -> tuple[str, bytes]:
    if isinstance(body, bytes):
        return "application/octet-stream", body
    if isinstance(body, str):
        return "text/plain; charset=utf-8", body.encode()
    return "application/json", strictjson.dumps(body)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
