"""Requests met before. Validating one costs 40 µs; the same bytes again cost a look-up, also when every message
has its own id: the id is cut out of the bytes, and what is left is what is known.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from models import request as requests
from models import strictjson
from models.errors import InvalidRequest
from models.request import Request

GENERATION = 16_384
"""Requests kept of each of two generations; the older is dropped when the younger is full."""
MAX_PLAIN_BYTES, MAX_KNOWN_BYTES = 2_560, 512
"""Bytes of a request up to which it is remembered: without nested values, and with (parsed, those take up to 22 times
their bytes). Together with GENERATION this bounds the map at some 350 MiB, and at 20 MiB for usual requests."""
CACHEABLE_METHODS = frozenset({"GET", "HEAD"})
"""Methods whose answers may be kept and shared: the safe ones (RFC 9110, section 9.2.1) that fetch something."""

# Ids of printable ASCII without quote and backslash stand in JSON as they are; any other goes the slow way.
_ID = rb'"id"[ \t\r\n]*:[ \t\r\n]*("[ !#-\[\]-~]{1,128}")[ \t\r\n]*'
_LEADING_ID = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*" + _ID + rb",")
_TRAILING_ID = re.compile(_ID + rb"\}[ \t\r\n]*\Z")


class Known(NamedTuple):
    """A valid request without its id, and `key`: what makes two requests the same entry of the cache.

    `key` is None for a method whose answers must not be kept. `max_age` is in seconds, None for no wish.
    """

    request: Request
    key: bytes | None
    max_age: float | None


class Book:
    """The bounded map from a request's bytes, without its id, to what they say."""

    def __init__(self) -> None:
        self._young: dict[bytes, Known] = {}
        self._old: dict[bytes, Known] = {}

    def read(self, value: bytes | None) -> tuple[bytes | None, Known]:
        """Return the id as JSON, None if the body gives none, and the request. Raises InvalidRequest."""
        if value is None or len(value) > requests.MAX_BYTES:
            request_id, rest = None, None  # parse says what is wrong with it
        else:
            request_id, rest = cut_id(value)
        if rest is not None:
            known = self._young.get(rest) or self._promoted(rest)
            if known is not None:
                return request_id, known
        text, request = requests.parse(value)
        known = know(request)
        parsed_id = None if text is None else strictjson.quote(text)
        # An id written with escapes ("\\u0069d") is not seen by cut_id and would be forgotten with the rest.
        if rest is not None and parsed_id == request_id and len(rest) <= _worth(request):
            self._remember(rest, known)
        return parsed_id, known

    def _promoted(self, rest: bytes) -> Known | None:
        known = self._old.get(rest)
        if known is not None:
            self._remember(rest, known)
        return known

    def _remember(self, rest: bytes, known: Known) -> None:
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, {}
        self._young[rest] = known


def _worth(request: Request) -> int:
    nested = request.params or request.body is not None or any(call.args for call in request.checks)
    return MAX_KNOWN_BYTES if nested else MAX_PLAIN_BYTES


def cut_id(value: bytes) -> tuple[bytes | None, bytes | None]:
    """Split a request's bytes into its id (as JSON) and the rest, without parsing.

    Sound only for an id that is the first or the last member of the object: taking that out of, or putting it
    into, an object's text gives the text of an object again. Anything else returns no rest.
    """
    last = value.rfind(b'"id"')
    if last < 0:
        return None, value
    found = _LEADING_ID.match(value)
    if found is not None:
        return found[1], b"{" + value[found.end() :]
    found = _TRAILING_ID.match(value, last)
    if found is not None:
        members = value[:last].rstrip(b" \t\r\n")
        if members.endswith(b","):
            return found[1], members[:-1] + b"}"
    return None, None


def know(request: Request) -> Known:
    """Work out under which key the answers to a request are kept."""
    key = entry_key(request) if request.method in CACHEABLE_METHODS else None
    return Known(request, key, request.max_age)


def entry_key(request: Request) -> bytes:
    """Return a digest of all that an answer depends on: two requests with the same one get the same answer.

    Header names are compared without case (RFC 9110, section 5.1); deadline and max_age change nothing of the answer.
    None of the first three lines can hold a line break, and no URL begins with a quote: no two
    requests write the same text.
    """
    target = request.url or strictjson.quote(request.source or "").decode()
    plain = f"{request.method}\n{request.schema}\n{target}".encode()
    details = request.params, request.headers, request.body, request.checks
    if any(details) or request.body is not None:
        plain += b"\n" + strictjson.canonical(
            {
                "params": request.params,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "body": request.body,
                "checks": [[call.name, call.field, call.args] for call in request.checks],
            }
        )
    return hashlib.blake2b(plain, digest_size=20).digest()


def salvage_id(value: bytes | None) -> bytes | None:
    """Return the id, as JSON, that an invalid request gives all the same, so that its sender knows the result."""
    try:
        members = strictjson.loads(value or b"")
        text = members["id"]
        if not isinstance(text, str):
            return None
        return strictjson.quote(requests.check_id(text))
    except (ValueError, TypeError, KeyError, InvalidRequest):
        return None
