"""The policy of an upstream: its source's, or the worker's defaults for a plain URL."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from models.source import Retries, Source, Tls
from streams.config.secrets import read_secret
from streams.config.settings import DEFAULT_MAX_REDIRECTS
from streams.http.auth import Credentials, credentials_of
from streams.http.limits import Bulkhead
from streams.tls import Context

if TYPE_CHECKING:
    import aiohttp

PROTOCOLS = ("http/1.1",)
"""The protocols offered by ALPN."""
CONNECT_TIMEOUT = 5.0
"""Seconds to connect."""
MAX_TOKEN_BYTES = 65_536
"""Bytes of a token endpoint's response."""
DEFAULT = Source("")
"""The defaults of a plain URL."""


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """`max_bytes` caps a decoded body. `bulkhead`: the source's own limits, used instead of its host's.

    `timeout` and `tls` are None for the session's, `proxy` for none. `repeatable`: any method may be sent again.
    `redirects`: how many are followed; with 0 a redirect is a response like any other. `response_headers` (lower case)
    are added to results. `source` is its name, None for a plain URL; `apart`: it does not share its host's limits,
    pauses and breaker. `reads`: its requests change nothing, whatever their method.
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


def tls_context(tls: Tls) -> Context:
    """Return the TLS context of a source. Raises ValueError naming an unusable file."""
    password = tls.key_password
    return Context(tls.ca, tls.cert, tls.key, (lambda: read_secret(password)) if password else str, protocols=PROTOCOLS)


def policy_of(source: Source, default: UpstreamPolicy, post: Callable[..., Awaitable[bytes]]) -> UpstreamPolicy:
    """Return the policy of a source, completed by `default`. Raises ValueError for a missing secret.

    `post(policy, url, headers, text, deadline)` fetches a token.
    """
    policy = dataclasses.replace(
        default,
        max_bytes=min(source.max_bytes or default.max_bytes, default.max_bytes),
        tls=tls_context(source.tls) if source.tls else None,
        proxy=source.proxy or default.proxy,
        source=source.name,
        # A source with cached answers only reads, such as a search by POST.
        reads=source.cache.methods_too and source.cache.ttl > 0,
    )
    # A redirect would send the client's secret elsewhere with the form.
    for_token = dataclasses.replace(policy, max_bytes=MAX_TOKEN_BYTES, repeatable=True, redirects=0, reads=True)
    timeout = None
    if source.connect_timeout or source.read_timeout:
        import aiohttp  # noqa: PLC0415  commands that only check the sources do without it

        connect = source.connect_timeout or CONNECT_TIMEOUT
        # Through a proxy, no sock_ time-out covers the response to CONNECT.
        tunnel = connect + (source.read_timeout or CONNECT_TIMEOUT) if policy.proxy else None
        timeout = aiohttp.ClientTimeout(total=None, connect=tunnel, sock_connect=connect, sock_read=source.read_timeout)
    return dataclasses.replace(
        policy,
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
