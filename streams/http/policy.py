"""On which terms an upstream is asked: what its source says, or the worker's defaults for a plain URL."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import aiohttp

from models.source import Retries, Source
from streams.config.settings import DEFAULT_MAX_REDIRECTS
from streams.http.auth import Credentials, credentials_of
from streams.http.limits import Bulkhead
from streams.http.tls import tls_context

CONNECT_TIMEOUT = 5.0
"""Seconds for one connection to be made."""
MAX_TOKEN_BYTES = 65_536
"""Bytes of a token endpoint's answer that are read."""
DEFAULT = Source("")
"""What holds for a plain URL."""


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """`max_bytes` caps a decoded body. `gate`: limits of the source's own, instead of its host's.

    `timeout` and `tls` are None where the session's own hold, `proxy` where none is used. `repeatable`: a request of
    any method may be sent again. `redirects` are followed at most; at 0 one is an answer like any other.
    `response_headers` of an answer are told (in lower case). `source` is whose terms they are, None for those of a
    plain URL; `apart`: its host's limits, pauses and breaker are its own. `reads`: requests change nothing, whatever
    their method.
    """

    max_bytes: int
    retry: Retries = DEFAULT.retry
    success: frozenset[int] = DEFAULT.success
    timeout: aiohttp.ClientTimeout | None = None
    bulkhead: Bulkhead | None = None
    credentials: Credentials | None = None
    tls: ssl.SSLContext | None = None
    proxy: str | None = None
    repeatable: bool = False
    redirects: int = DEFAULT_MAX_REDIRECTS
    response_headers: tuple[str, ...] = ()
    source: str | None = None
    apart: bool = False
    reads: bool = False


def policy_of(source: Source, default: UpstreamPolicy, post: Callable[..., Awaitable[bytes]]) -> UpstreamPolicy:
    """Return the terms of a source; `default` holds for what it does not say. Raises ValueError for missing secrets.

    `post(terms, url, headers, text, deadline)` is how a token is fetched.
    """
    terms = dataclasses.replace(
        default,
        max_bytes=min(source.max_bytes or default.max_bytes, default.max_bytes),
        tls=tls_context(source.tls) if source.tls else None,
        proxy=source.proxy or default.proxy,
        source=source.name,
        # Whose answers are kept is one that reads, such as a search by POST.
        reads=source.cache.methods_too and source.cache.ttl > 0,
    )
    # A redirect would carry the client's secret elsewhere with the form.
    for_token = dataclasses.replace(terms, max_bytes=MAX_TOKEN_BYTES, repeatable=True, redirects=0, reads=True)
    timeout = None
    if source.connect_timeout or source.read_timeout:
        connect = source.connect_timeout or CONNECT_TIMEOUT
        # Through a proxy a tunnel is made, too, whose answer no sock_ time-out waits for.
        tunnel = connect + (source.read_timeout or CONNECT_TIMEOUT) if terms.proxy else None
        timeout = aiohttp.ClientTimeout(total=None, connect=tunnel, sock_connect=connect, sock_read=source.read_timeout)
    return dataclasses.replace(
        terms,
        retry=source.retry,
        success=source.success,
        response_headers=source.response_headers,
        redirects=default.redirects if source.redirects is None else source.redirects,
        repeatable=source.retry.unsafe,
        apart=source.is_apart,
        timeout=timeout,
        bulkhead=Bulkhead(source.limits) if source.limits else None,
        credentials=credentials_of(source, partial(post, for_token)),
    )
