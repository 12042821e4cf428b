"""Whether the installed aiohttp has the private parts that an exchange uses; without them aiohttp's session serves."""

from __future__ import annotations

import inspect
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aiohttp import __version__

from streams.http.once import Pool
from streams.http.session import Session, session_of

if TYPE_CHECKING:
    from streams.http.exchange import Exchange

logger = logging.getLogger(__name__)

# By module: names, and for callables the parameters that are passed.
_CONNECT = ("self", "req", "traces", "timeout")
_BEGIN = (
    *("self", "timer", "skip_payload", "read_until_eof", "auto_decompress", "read_timeout", "read_bufsize"),
    *("timeout_ceil_threshold", "max_line_size", "max_field_size", "max_headers"),
)
_NEEDED: dict[str, dict[str, tuple[str, ...] | None]] = {
    "aiohttp.client_proto": {
        "ResponseHandler.set_response_params": _BEGIN,
        "ResponseHandler.start_timeout": ("self",),
        "ResponseHandler.read": ("self",),
        "ResponseHandler.writing_paused": None,
        "ResponseHandler.resume_writing": ("self",),
    },
    "aiohttp.connector": {
        "BaseConnector.connect": _CONNECT,
        "TCPConnector._create_direct_connection": (*_CONNECT, "client_error"),
        "Connection.protocol": None,
        "Connection.release": ("self",),
        "Connection.close": ("self",),
    },
    "aiohttp.client_reqrep": {
        "ConnectionKey": ("host", "port", "is_ssl", "ssl", "proxy", "proxy_auth", "proxy_headers_hash",
                          "server_hostname"),
    },
    "aiohttp.http_writer": {"_serialize_headers": ("status_line", "headers")},
}  # fmt: skip


def direct(pool: Pool) -> Exchange | Session:
    """Return what sends requests to upstreams without a proxy, which closes the pool."""
    missing = misfits()
    if missing:
        logger.warning("aiohttp %s has no %s as Millrace knows it: requests take aiohttp's session, and more CPU time",
                       __version__, ", ".join(missing))  # fmt: skip
        return Session(session_of(pool))
    from streams.http.exchange import Exchange  # noqa: PLC0415  it imports what may be missing

    return Exchange(pool)


def misfits() -> list[str]:
    """Return the names of what the installed aiohttp lacks, or has with other parameters."""
    return [
        f"{module}.{name}"
        for module, names in _NEEDED.items()
        for name, parameters in names.items()
        if not _fits(module, name, parameters)
    ]


def _fits(module: str, name: str, parameters: tuple[str, ...] | None) -> bool:
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return parameters is None or tuple(inspect.signature(found).parameters) == parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
