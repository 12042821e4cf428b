"""The HTTP request sent to one address, and the next one after a redirect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from yarl import URL

from models import strictjson
from models.errors import Denied, UpstreamError
from streams.cache.freshness import Head
from streams.http.auth import Credentials
from streams.http.content import accepted
from streams.http.url import resolve

USER_AGENT = {"User-Agent": "millrace"}
"""Sent unless the request names its own."""

# What a redirect may carry to another origin: any other header may be a credential, whatever it is called.
_HARMLESS = frozenset({"accept", "accept-language", "user-agent", "content-type", "traceparent", "tracestate",
                       "idempotency-key"})  # fmt: skip
_CONDITIONAL = frozenset({"if-none-match", "if-modified-since"})
_CONTENT = frozenset({"content-type", "content-encoding", "content-language", "content-location"})


class OutgoingRequest(NamedTuple):
    """What is sent to one address. `own`: it is where the request itself pointed, not elsewhere by a redirect;
    `conditional`: a 304 is an answer, since what it speaks of is at hand. `sent` counts the requests sent for one
    fetch, if there are traces. `redirects` has the heads of those that led here.
    """

    method: str
    url: URL
    headers: Mapping[str, str]
    data: bytes | None
    own: bool = True
    conditional: bool = False
    sent: Iterator[int] | None = None
    redirects: tuple[Head, ...] = ()


def with_body(headers: Mapping[str, str], body: Any) -> tuple[Mapping[str, str], bytes | None]:
    """Return the headers to send and the body's bytes: text of a string, JSON of anything else, None without a body."""
    if not headers:
        headers = USER_AGENT
    else:
        given = {name.lower(): name for name in headers}
        if "user-agent" not in given:
            headers = {**headers, **USER_AGENT}
        if (name := given.get("accept-encoding")) is not None:
            headers = {**headers, name: accepted(headers[name])}
        elif "range" in given:  # of what is sent (RFC 9110, section 14.2): a piece of a compressed body is of no use
            headers = {**headers, "Accept-Encoding": "identity"}
    if body is None:
        return headers, None
    text = isinstance(body, str)
    data = body.encode() if text else strictjson.dumps(body, exact=True)
    if any(name.lower() == "content-type" for name in headers):
        return headers, data
    return {**headers, "Content-Type": "text/plain; charset=utf-8" if text else "application/json"}, data


def harmless(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go to another origin."""
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS}


def redirected(
    hop: OutgoingRequest, status: int, location: str, credentials: Credentials | None = None, *, did: str = "redirected"
) -> OutgoingRequest:
    """Return the request to send to a redirect's target (RFC 9110, section 15.4), or to another address that an answer
    names; `did` is what it did, for messages.

    Raises Denied for one to another scheme, and for one that would carry the `credentials` to another origin.
    """
    try:
        target = resolve(hop.url, location)
    except ValueError:
        msg = f"{hop.url.host} {did} to an invalid URL"
        raise UpstreamError(msg, status) from None
    if target.scheme not in (hop.url.scheme, "https"):
        known = target.scheme if target.scheme in ("http", "ftp", "file", "data", "ws", "wss") else "another scheme"
        msg = f"{hop.url.host} {did} from {hop.url.scheme} to {known}"
        raise Denied(msg)
    if not target.host:
        msg = f"{hop.url.host} {did} to a URL without a host"
        raise UpstreamError(msg, status)
    method, headers, data = hop.method, hop.headers, hop.data
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):  # noqa: PLR2004
        method, data = "GET", None
        headers = {name: value for name, value in headers.items() if name.lower() not in _CONTENT}
    own = hop.own and target.origin() == hop.url.origin()
    if hop.conditional:  # its conditions are about this address, not the next
        headers = {name: value for name, value in headers.items() if name.lower() not in _CONDITIONAL}
    if target.origin() != hop.url.origin():
        if credentials is not None and credentials.contained_in(str(target).encode()):
            msg = f"{hop.url.host} {did} to another origin with the source's credentials"
            raise Denied(msg)
        headers = harmless(headers)
    return OutgoingRequest(method, target, headers, data, own, sent=hop.sent, redirects=hop.redirects)
