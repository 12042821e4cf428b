"""The upstream of a test: what it says to whom, and what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from models import strictjson

NO_CONTENT = frozenset({204, 304})
"""Statuses whose answers have no body (RFC 9110, section 6.4.1)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came to the upstream; `headers` by their names in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError."""
        return strictjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `body`: bytes and strings go as they are, anything else as JSON.

    Content-Type is set by the kind of body, and Content-Length, unless `headers` have them.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def encode(self, method: str) -> bytes:
        """Return it as HTTP, for a request of this method."""
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
    """`replies` say by URL, or `"POST https://…"` for one method, what is answered.

    That is a JSON value, a string or bytes (status 200); a Reply; an exception (OSError or aiohttp's: how the
    connection fails); a function of an Asked that returns one of these; or a list of these, one for each request, the
    last of them for all that follow. A JSON array is written `Reply([…])`. Raises ValueError for a key that is no such
    URL, and for an empty list.

    `asked` has what came, in order; `faults` what the test itself did wrong, such as to have no reply to something.
    """

    def __init__(self, replies: Mapping[str, Any]) -> None:
        self._replies = {_key(text): _as_list(text, reply) for text, reply in replies.items()}
        self.asked: list[Asked] = []
        self.faults: list[BaseException] = []

    def reply(self, asked: Asked) -> Reply | Exception:
        """Return what is said to a request, or how its connection fails."""
        self.asked.append(asked)
        replies = self._replies.get((asked.method, asked.url)) or self._replies.get((None, asked.url))
        if replies is None:
            return self._fault(AssertionError(self._unexpected(asked)))
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        try:
            if callable(reply) and not isinstance(reply, type):
                reply = reply(asked)
            if isinstance(reply, type) and issubclass(reply, BaseException):
                reply = reply()
            if isinstance(reply, BaseException):
                raise reply  # noqa: TRY301  given and raised by a function are the same
            made = reply if isinstance(reply, Reply) else Reply(reply)
            made.encode(asked.method)
        except (OSError, aiohttp.ClientError) as exc:
            return exc
        except BaseException as exc:  # noqa: BLE001  it is for the test to see
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

    def _unexpected(self, asked: Asked) -> str:
        known = "".join(f"\n  {method or 'any method'} {url}" for method, url in self._replies) or " nothing"
        return f"the upstream was asked for what the test has no reply to:\n  {asked.method} {asked.url}\nknown:{known}"


def normal(url: URL) -> str:
    """Return a URL as it is compared: without fragment, with a path, quoted in one way."""
    quoted = URL(str(url))
    return f"{quoted.origin()}{quoted.raw_path_qs}"


def _key(text: str) -> tuple[str | None, str]:
    method, space, rest = text.partition(" ")
    url = URL(rest if space else text)
    if url.scheme not in ("http", "https") or not url.host:
        msg = f"{text!r} is no upstream: give an http(s) URL, or a method, a space and a URL"
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
