"""A complete response of an upstream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from multidict import CIMultiDict

from models.documents import Body
from models.errors import AnswerError, UpstreamError
from models.request import Request
from streams.cache.freshness import PARTIAL, Head

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader
    from multidict import CIMultiDictProxy
    from yarl import URL

E = TypeVar("E", bound=AnswerError)

MAX_CONTENT_TYPE = 1_024
"""Characters of a Content-Type that are parsed."""


class IncomingResponse(Protocol):
    """A response whose head has arrived: of aiohttp's session, or of an exchange."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def reason(self) -> str | None:
        """Its reason phrase."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its fields."""

    @property
    def content(self) -> StreamReader:
        """Its body, as it arrives."""

    @property
    def content_length(self) -> int | None:
        """The bytes of the body that the head declares."""

    @property
    def url(self) -> URL:
        """The URL that was requested."""

    def release(self) -> Any:
        """Release the connection, or close it if the body was not read to its end."""


_PARAMETER = re.compile(r";[ \t]*+([^;=\" \t]++)[ \t]*+=[ \t]*+(?:\"((?:[^\"\\]|\\.)*+)\"|([^;]*+))", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Response(NamedTuple):
    """A response: `status` (None for a function; 304 only for a revalidation), body and headers. `attempts`: which
    attempt it came from (1 is the first); `delay`: seconds until its head; `redirects`: heads of redirects before it;
    `url`: where it came from, after redirects; `own`: it is that of the URL that was requested, and so are its
    validators.
    """

    status: int | None
    body: Body
    headers: Mapping[str, str]
    attempts: int = 1
    delay: float = 0.0
    redirects: tuple[Head, ...] = ()
    url: URL | None = None
    own: bool = True

    def trail(self) -> tuple[Head, ...]:
        """Return the heads of redirects and response, which decide on caching."""
        headers = self.headers
        if not self.own:
            headers = CIMultiDict(headers)
            for name in ("ETag", "Last-Modified"):
                headers.popall(name, None)
        return (*self.redirects, Head(self.status, headers, self.delay))


def unusable(response: Response, error: E) -> E:
    """Return the error of a response that cannot be used, with its status, attempts and heads."""
    error.status, error.attempts, error.trail = response.status, response.attempts, response.trail()
    return error


def refuse_partial(request: Request, response: Response) -> None:
    """Raise UpstreamError for a partial response to a request without Range (RFC 9110, section 15.3.7)."""
    if (
        response.status != PARTIAL
        or request.method != "GET"
        or any(name.lower() == "range" for name in request.headers)
    ):
        return
    host = urlsplit(request.url or "").hostname
    msg = f"{host} answered {PARTIAL} Partial Content to a request without Range"
    raise unusable(response, UpstreamError(msg, PARTIAL))


def media(content_type: str | None) -> tuple[str, str | None]:
    """Return media type and charset of a Content-Type (RFC 9110, section 8.3), as far as MAX_CONTENT_TYPE.

    `application/octet-stream` for none, `text/plain` for what is no media type (RFC 2045, section 5.2).
    """
    return _media((content_type or "application/octet-stream")[:MAX_CONTENT_TYPE])


@lru_cache(maxsize=256)
def _media(content_type: str) -> tuple[str, str | None]:
    """Parse a Content-Type, cached as upstreams repeat theirs."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.count("/") != 1 or not media_type.isascii():
        media_type = "text/plain"
    for name, quoted, token in _PARAMETER.findall(content_type):
        if name.lower() == "charset":
            return media_type, _QUOTED_PAIR.sub(r"\1", quoted) or token.strip() or None
    return media_type, None
