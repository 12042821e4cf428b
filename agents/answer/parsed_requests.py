"""Requests met before. Validating one costs 40 µs; the same bytes again cost a look-up, also when every message
has its own id: the id is cut out of the bytes, and what is left is what is known.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from typing import NamedTuple

from models import request as requests
from models import strictjson
from models.checks import Call
from models.errors import InvalidRequest
from models.large import LARGE
from models.request import Request
from models.source import Source, Sources
from streams.cache.freshness import UNKEYED, read_request_directives
from streams.http.url import normal
from streams.pool import LargeWork

GENERATION = 16_384
"""Requests kept of each of two generations; the older is dropped when the younger is full."""
MAX_PLAIN_BYTES, MAX_KNOWN_BYTES = 2_560, 512
"""Bytes of a request up to which it is remembered: without nested values, and with."""
PLAIN_FACTOR, NESTED_FACTOR, OVERHEAD = 3, 22, 512
"""Bytes of memory for each byte of such a request, at most, and for its parts."""
GENERATION_BYTES = 24 << 20
"""Bytes of memory of a generation, about: usual requests take 10 MiB."""
CACHEABLE_METHODS = frozenset({"GET", "HEAD"})
"""Methods whose answers may be kept and shared: the safe ones (RFC 9110, section 9.2.1) that fetch something."""

# Ids of printable ASCII without quote and backslash stand in JSON as they are; any other goes the slow way.
_ID = rb'"id"[ \t\r\n]*:[ \t\r\n]*("[ !#-\[\]-~]{1,128}")[ \t\r\n]*'
_LEADING_ID = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*" + _ID + rb",")
_TRAILING_ID = re.compile(_ID + rb"\}[ \t\r\n]*\Z")


class ParsedRequest(NamedTuple):
    """A valid request without its id, and `key`: what makes two requests the same entry of the cache.

    `key` is None for a method whose answers must not be kept. `max_age` is in seconds, None for no wish; `min_fresh`
    are the seconds that an answer must be fresh for, and then `max_age` is not None. For a source, the request is what
    it becomes with its parameters in their places. `checks` has a `check_key` for each check.
    """

    request: Request
    key: bytes | None
    max_age: float | None
    source: Source | None = None
    checks: tuple[str, ...] = ()
    min_fresh: float = 0.0
    only_if_cached: bool = False

    def takes(self, as_of: float, fresh_until: float, now: float) -> bool:
        """Whether an answer that is fresh so long is as new, and for as long, as it must be (epoch seconds)."""
        return self.max_age is None or (now - as_of <= self.max_age and now + self.min_fresh <= fresh_until)

    def passes_over(self, as_of: float | None, now: float) -> bool:
        """Whether an answer that is not fresh any more, or not known to be, is too old (epoch seconds)."""
        return self.max_age is not None and (self.min_fresh > 0 or now - (as_of or 0.0) > self.max_age)


class LargeRequest(Exception):
    """A request that would hold up the event loop: `ParsedRequestCache.read_large` is for it."""


class ParsedRequestCache:
    """The bounded map from a request's bytes, without its id, to what they say. `large` reads what has many bytes."""

    def __init__(self, sources: Sources | None = None, large: LargeWork | None = None) -> None:
        self._sources = sources or Sources()
        self._large = large
        self._young: dict[bytes, ParsedRequest] = {}
        self._old: dict[bytes, ParsedRequest] = {}
        self._young_bytes = 0

    def parse(self, value: bytes | None) -> tuple[bytes | None, ParsedRequest]:
        """Return the id as JSON, None if the body gives none, and the request. Raises InvalidRequest, LargeRequest."""
        if value is None or len(value) > LARGE:
            if self._large is not None and value is not None and len(value) <= requests.MAX_BYTES:
                raise LargeRequest
            request_id, rest = None, None  # it is not kept, and parse says what is wrong with it
        else:
            request_id, rest = cut_id(value)
        if rest is not None:
            known = self._young.get(rest) or self._promoted(rest)
            if known is not None:
                return request_id, known
        text, request = requests.parse(value)
        known = parse_request(request, self._sources)
        parsed_id = None if text is None else strictjson.quote(text)
        # An id written with escapes ("\\u0069d") is not seen by cut_id and would be forgotten with the rest.
        if rest is not None and parsed_id == request_id:
            nested = _is_nested(known.request)
            if len(rest) <= (MAX_KNOWN_BYTES if nested else MAX_PLAIN_BYTES):
                self._remember(rest, known, nested=nested)
        return parsed_id, known

    async def read_large(self, value: bytes) -> tuple[bytes | None, ParsedRequest]:
        """Do what `parse` does, with what nests in the request left as text. Raises InvalidRequest, Overloaded or
        InternalError.
        """
        assert self._large is not None
        text, request = pickle.loads(await self._large.run("read a request", value))  # noqa: S301  our own process
        return None if text is None else strictjson.quote(text), parse_request(request, self._sources)

    def _promoted(self, rest: bytes) -> ParsedRequest | None:
        known = self._old.get(rest)
        if known is not None:
            self._remember(rest, known, nested=_is_nested(known.request))
        return known

    def _remember(self, rest: bytes, known: ParsedRequest, *, nested: bool) -> None:
        size = OVERHEAD + len(rest) * (NESTED_FACTOR if nested else PLAIN_FACTOR)
        if len(self._young) >= GENERATION or self._young_bytes + size > GENERATION_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[rest] = known
        self._young_bytes += size


def _is_nested(request: Request) -> bool:
    if request.params or request.body is not None:
        return True
    return bool(request.checks) and any(call.args for call in request.checks)


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


def parse_request(request: Request, sources: Sources | None = None) -> ParsedRequest:
    """Work out what is asked, and under which key answers are kept. Raises InvalidRequest for what no source takes."""
    source = None
    if request.source is not None:
        request, source = (sources or Sources()).expand(request)
    kept = request.method in CACHEABLE_METHODS or (source is not None and source.cache.methods_too)
    checks = tuple(map(check_key, request.checks))
    if not request.headers:
        return ParsedRequest(request, entry_key(request, source) if kept else None, request.max_age, source, checks)
    directives = read_request_directives(request.headers)
    key = entry_key(request, source) if kept and not directives.no_store else None
    ages = [age for age in (request.max_age, directives.max_age) if age is not None]
    return ParsedRequest(
        request, key, min(ages, default=None), source, checks, directives.min_fresh, directives.only_if_cached
    )


def entry_key(request: Request, source: Source | None = None) -> bytes:
    """Return the key of all that a document depends on: two requests with the same one get the same.

    It is `<source>-<target>-<digest>` in hex, so that entries can be found by source and URL. The digest covers the
    method, schema, URL, source (its whole definition, credentials included), parameters, headers and body. Header names
    are compared without case (RFC 9110, section 5.1), and URLs as they are sent; deadline, max_age and checks change
    nothing of the document, nor do the headers by which a request speaks to caches or is traced. None of the first four
    lines can hold a line break, and no URL begins with a quote: no two requests write the same text.
    """
    url = None if request.url is None else normal(request.url)
    target = url or strictjson.quote(request.source or "").decode()
    identity = "" if source is None else source.identity
    plain = f"{identity}\n{request.method}\n{request.schema}\n{target}".encode()
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in UNKEYED}
    if request.params or headers or request.body is not None:
        plain += b"\n" + strictjson.canonical({"params": request.params, "headers": headers, "body": request.body})
    digest = hashlib.blake2b(plain, digest_size=20).hexdigest()
    return f"{source_tag(request.source)}-{_target_tag(url)}-{digest}".encode()


def check_key(call: Call) -> str:
    """Return the key of all that a verdict on a document depends on: the check's name, its field and arguments."""
    plain = strictjson.canonical([call.name, call.field, call.args])
    return hashlib.blake2b(plain, digest_size=20).hexdigest()


def source_tag(name: str | None) -> str:
    """Return the part of a key that says which source it is of; zeros for a plain URL."""
    return "0" * 8 if name is None else hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def target_tag(url: str | None) -> str:
    """Return the part of a key that says for which URL it is, however that is written; zeros for a function."""
    return _target_tag(None if url is None else normal(url))


def _target_tag(url: str | None) -> str:
    return "0" * 16 if url is None else hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def matching(url: str | None = None, source: str | None = None) -> Callable[[bytes], bool]:
    """Return what tells the keys of a URL, or of a source, or, without either, all of them."""
    if source is not None:
        wanted = f"{source_tag(source)}-".encode()
        return lambda key: key.startswith(wanted)
    if url is not None:
        wanted = f"-{target_tag(url)}-".encode()
        return lambda key: wanted in key
    return lambda _: True


def salvage_id(value: bytes | None) -> bytes | None:
    """Return the id, as JSON, that an invalid request gives all the same, so that its sender knows the result."""
    if value is not None and len(value) > LARGE:
        return cut_id(value)[0]
    try:
        members = strictjson.loads(value or b"")
        text = members["id"]
        if not isinstance(text, str):
            return None
        return strictjson.quote(requests.check_id(text))
    except (ValueError, TypeError, KeyError, InvalidRequest):
        return None
