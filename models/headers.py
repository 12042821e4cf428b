"""What the method and the headers of a request may be."""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.schema import refuse

MAX_HEADERS = 64
"""Headers of one request."""
MAX_HEADER_VALUE = 8192
"""Characters of one header value: what common servers accept."""

CONNECTION_HEADERS = frozenset(
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
    ]
)
"""Headers that frame the message or name its receiver (RFC 9110, section 7.6.1): only the client sets them."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f]")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValidationError for headers that cannot be sent, or that only the client sets."""
    if len(headers) > MAX_HEADERS:
        refuse(f"{len(headers)} headers; at most {MAX_HEADERS} are allowed")
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        if not HEADER_NAME.fullmatch(name):
            refuse(f"{name!r} is not a header name (RFC 9110, section 5.1)")
        if lower in CONNECTION_HEADERS:
            refuse(f"{name} is set by the worker itself")
        if lower in seen:
            refuse(f"{name} is given twice")
        seen.add(lower)
        if _UNSENDABLE.search(value.replace("\t", "")) or not value.isascii() or value != value.strip():
            refuse(f"{name} has a value that cannot be sent: visible ASCII only")
        if len(value) > MAX_HEADER_VALUE:
            refuse(f"{name} has {len(value)} characters; at most {MAX_HEADER_VALUE} are allowed")


def check_method(method: str) -> None:
    """Raise ValidationError for an unsupported method."""
    if method not in METHODS:
        refuse(f"must be one of {', '.join(METHODS)}")
