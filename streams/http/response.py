"""A whole answer of an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from functools import lru_cache
from typing import NamedTuple

from multidict import CIMultiDict

from models.documents import Body
from streams.cache.freshness import Head


class Response(NamedTuple):
    """Status (None: a function has none; 304 comes only to who asked for it), body and headers, and the how manieth
    try it was. `delay`: the seconds until its head came; `redirects`: the heads of those that led to it.
    """

    status: int | None
    body: Body
    headers: Mapping[str, str]
    attempts: int = 1
    delay: float = 0.0
    redirects: tuple[Head, ...] = ()

    def trail(self) -> tuple[Head, ...]:
        """Return the heads of all that led to it, and its own: by these it may be kept."""
        return (*self.redirects, Head(self.status, self.headers, self.delay))


def without_validators(response: Response) -> Response:
    """Return an answer that came by way of a redirect: what its ETag speaks of is not what was asked for."""
    kept = CIMultiDict(response.headers)
    for name in ("ETag", "Last-Modified"):
        kept.popall(name, None)
    return response._replace(headers=kept)


@lru_cache(maxsize=256)
def media(content_type: str | None) -> tuple[str, str | None]:
    """Return media type and charset of a Content-Type; an upstream says the same thing again and again."""
    message = Message()
    message["Content-Type"] = content_type or "application/octet-stream"
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else None
