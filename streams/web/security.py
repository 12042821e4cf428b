"""Who may do what over HTTP: anyone who reaches the worker under an allowed host name may read, only clients with the
token may change something, and a browser may do with a response what the headers allow and no more.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from models.errors import SettingsError
from streams.config.settings import ANYWHERE
from streams.web.problems import Problem

HANDLING_LIMIT = 15.0
"""Seconds that a handler may take, unless it is marked `no_time_limit`."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""On every response, unless its handler has set one itself."""
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that answer under any host name: kubelets and Prometheus use the address."""

TOKEN_HEADER = "X-Millrace-Token"  # noqa: S105  a header's name
"""Carries the token where a proxy uses `Authorization`."""

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{0,5})?")


def check_binding(host: str, token: str | None) -> None:
    """Raise SettingsError for an address that other machines can reach, if there is no token."""
    if token or host == "localhost" or _is_loopback(host):
        return
    msg = (
        f"MILLRACE_WEB_HOST: {host!r} can be reached by other machines, so MILLRACE_WEB_TOKEN is needed: "
        "set it (or MILLRACE_WEB_TOKEN_FILE), or leave MILLRACE_WEB_HOST at 127.0.0.1"
    )
    raise SettingsError(msg)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _plain(host: str) -> str:
    """Return the normal form of a host: a name in lower case, an address as it is printed."""
    return str(_address(host) or host.lower())


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return address is not None and address.is_loopback


def no_time_limit(handler: Callable[..., Awaitable[web.StreamResponse]]) -> Handler:
    """Mark a handler that limits its own time: a stream, or one that waits for a result."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    vars(handle)["no_time_limit"] = True
    return handle


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on; a signal handler, so that streams, files and errors have them too."""
    for name, content in HEADERS.items():
        response.headers.setdefault(name, content)
    response.headers["Server"] = "millrace"  # aiohttp puts its and Python's version there


def named(bound: str, names: Iterable[str]) -> Middleware:
    """Return a middleware that answers only requests for one of these names (lower case), a loopback name, or the
    address that the connection came to: a foreign page whose name was turned to us (DNS rebinding) uses its own name.
    Any other gets 421 (RFC 9110, section 15.5.20).
    """
    allowed = {_plain(name) for name in {"localhost", bound, *names} - ANYWHERE}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in PROBES and not all(_is_ours(each, request) for each in _hosts_of(request)):
            detail = "host not allowed; add it to MILLRACE_WEB_HOSTS"
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, detail)
        return await handler(request)

    def _is_ours(host: str, request: web.Request) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = _plain(found[1].removesuffix("."))
        if name in allowed:
            return True
        address = _address(name)
        if address is None:
            return False
        sockname = request.transport.get_extra_info("sockname") if request.transport is not None else None
        return address.is_loopback or (sockname is not None and address == _address(sockname[0]))

    return check


def _hosts_of(request: web.Request) -> list[str]:
    """Return every host that a request names: its Host headers, and that of its target if it is a whole URL."""
    hosts = request.headers.getall("Host", [""])
    target: URL = request._message.url  # aiohttp has the target's own host nowhere else
    return [*hosts, target.raw_authority] if target.absolute else hosts


def token_needed(token: str | None) -> Middleware:
    """Return a middleware that requires the token for everything but GET and HEAD: in `Authorization: Bearer <token>`,
    or in TOKEN_HEADER, where a proxy uses `Authorization` for its own login. One of the two is enough.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _SAFE_METHODS:
            if not token:
                raise Problem(HTTPStatus.FORBIDDEN, "MILLRACE_WEB_TOKEN is not set: nothing can be changed here")
            given = (each.encode(errors="surrogateescape") for each in _tokens_of(request))
            if not any(hmac.compare_digest(each, token.encode()) for each in given):
                challenge = {"WWW-Authenticate": "Bearer"}
                raise Problem(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong", headers=challenge)
        return await handler(request)

    return check


def _tokens_of(request: web.Request) -> Iterator[str]:
    if (own := request.headers.get(TOKEN_HEADER)) is not None:
        yield own
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield given


@web.middleware
async def timely(request: web.Request, handler: Handler) -> web.StreamResponse:
    """End a request that takes too long, also one whose body arrives byte by byte."""
    if getattr(request.match_info.handler, "no_time_limit", False):
        return await handler(request)
    try:
        async with asyncio.timeout(HANDLING_LIMIT):
            return await handler(request)
    except TimeoutError:
        detail = f"no answer within {HANDLING_LIMIT:g} s"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"}) from None
