"""The errors of fetches. No message quotes path, query or credentials, which may be secrets."""

from __future__ import annotations

import errno
import re
import socket

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from models.errors import (
    RETRYABLE_STATUSES,
    AnswerError,
    Denied,
    InvalidRequest,
    Overloaded,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from streams.cache.freshness import LIST_MEMBER
from streams.http.auth import Credentials
from streams.http.guard import DeniedAddress, why
from streams.http.once import Broken, Unsent
from streams.http.policy import UpstreamPolicy
from streams.http.protocol import MAX_FIELD, MAX_FIELDS
from streams.http.response import IncomingResponse
from streams.http.retry import retry_after

PROXY_LOGIN = 407
"""The status of a proxy that requires authentication (RFC 9110, section 15.5.8)."""
UNAUTHORIZED, FORBIDDEN = 401, 403

MAX_CHALLENGES = 8_192
"""Characters of all WWW-Authenticate headers of a response that are parsed."""

# In a member of the list a scheme may stand before its first parameter (RFC 9110, section 11.6.1).
_SCHEME = re.compile(r"\s*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:\s++(?!=)|\s*+$)")
_INVALID_TOKEN = re.compile(r'\s*+error\s*+=\s*+(?:invalid_token|"invalid_token")\s*+$', re.IGNORECASE)


def unsuccessful(host: str, response: IncomingResponse, policy: UpstreamPolicy) -> AnswerError:
    """Return the error for an unsuccessful status, without secrets that the upstream repeats."""
    status, reason = response.status, response.reason or ""
    if status == PROXY_LOGIN and policy.proxy is not None:
        return Unreachable(f"the proxy to {host} requires authentication: it answered {status}")
    if policy.credentials is not None and policy.credentials.contained_in(reason.encode(errors="replace")):
        reason = ""
    error = UpstreamError(f"{host} answered {status} {reason}".rstrip(), status,
                          retry_after(response.headers.get("Retry-After")))  # fmt: skip
    error.retryable = status in policy.retry.statuses
    error.refuses_credentials = status == UNAUTHORIZED or (
        status == FORBIDDEN and policy.credentials is not None and _blames_token(response)
    )
    return error


def _blames_token(response: IncomingResponse) -> bool:
    """Whether a 403 is due to an invalid token, not to missing permissions (RFC 6750, section 3.1)."""
    challenges = ", ".join(response.headers.getall("WWW-Authenticate", ()))[:MAX_CHALLENGES]
    scheme = ""
    for member in LIST_MEMBER.findall(challenges):
        begins = _SCHEME.match(member)
        scheme = begins[1].lower() if begins else scheme
        if scheme == "bearer" and _INVALID_TOKEN.match(member, begins.end() if begins else 0):
            return True
    return False


def hide_secrets(error: AnswerError, credentials: Credentials | None) -> None:
    """Replace the message of an error that quotes the credentials."""
    if credentials is not None and credentials.contained_in(error.whole_text().encode(errors="replace")):
        error.args = ("the upstream's answer repeats the source's credentials, so it is not quoted",)


def is_host_fault(error: AnswerError) -> bool | None:
    """Return how the host did: False it failed, True it responded, None unknown."""
    match error:
        case UpstreamError(status=429) | Denied() | InvalidRequest() | Overloaded() | Unreachable(stale=True):
            return None
        case UpstreamError(status=None) | Unreachable() | TimedOut():
            return False
    # By the usual statuses, not those that a source retries: sources share a host.
    return not (isinstance(error, UpstreamError) and error.status in RETRYABLE_STATUSES)


def translate(exc: BaseException | None, url: URL) -> AnswerError:
    """Translate an error of aiohttp, and note whether anything was sent."""
    host = url.host or "?"
    if isinstance(exc, aiohttp.ClientResponseError) and _too_long(exc):
        return TooLarge(f"{host} answered with more than {MAX_FIELDS} headers, or one of over {MAX_FIELD} bytes")
    error = _translated(exc.__cause__ if isinstance(exc, Unsent | Broken) else exc, host)
    error.unsent = isinstance(exc, Unsent)
    if isinstance(exc, Broken) and isinstance(error, Unreachable):
        error.stale = exc.reused
    return error


def _translated(exc: BaseException | None, host: str) -> AnswerError:  # noqa: C901, PLR0911  a table
    """Return an error that names the host, never path or query, which may contain secrets."""
    match exc:
        case TimeoutError():
            return TimedOut(f"{host} did not answer in time")
        case aiohttp.ClientPayloadError():
            return Unreachable(f"{host} broke off in the middle of the body")
        case aiohttp.ClientHttpProxyError():
            return Unreachable(f"the proxy does not connect to {host}: it answered {exc.status}")
        case aiohttp.ClientConnectorError() if exc.os_error.errno in (errno.EMFILE, errno.ENFILE):
            return Overloaded(f"{host} was not connected to: this worker has too many files open (ulimit -n)")
        case aiohttp.ClientProxyConnectionError():
            return Unreachable(f"the proxy to {host} cannot be connected to")
        case aiohttp.ClientResponseError():
            return UpstreamError(f"{host} did not answer with valid HTTP")
        case aiohttp.InvalidURL():
            return InvalidRequest("url: cannot be requested")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{host} cannot be resolved: {_dns(exc.os_error)}")
        case aiohttp.ClientConnectorCertificateError():
            return Unreachable(f"{host}: TLS failed: {exc.certificate_error}")
        case aiohttp.ClientConnectorError(os_error=DeniedAddress(network=network)):
            return Denied(why(network))
        case aiohttp.ClientConnectorError():
            return Unreachable(f"{host} cannot be connected to: {exc.os_error.strerror or exc.os_error}")
        case aiohttp.ClientError() | OSError():
            return Unreachable(f"the connection to {host} broke: {type(exc).__name__}")
    return InvalidRequest(f"the request to {host} cannot be sent: {exc}")


def _too_long(exc: aiohttp.ClientResponseError) -> bool:
    """Whether a response's head exceeds one of the parser's limits; aiohttp reports the second by its text alone."""
    reason = exc.__cause__ and exc.__cause__.__cause__
    return isinstance(reason, LineTooLong) or "Too many headers" in str(reason)


def _dns(error: OSError) -> str:
    match error.errno:
        case socket.EAI_AGAIN:
            return "no name server gave an answer"
        case socket.EAI_NONAME | socket.EAI_NODATA:
            return "no such name, or no address for it"
    return error.strerror or str(error)
