"""Parsed requests, cached by their bytes. The id is cut out first, so requests that differ only in their id share one
entry: a look-up instead of 40 µs of validation.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from marshmallow import ValidationError

from models import cloudevent, strictjson
from models import request as requests
from models.checks import Call
from models.errors import InvalidRequest
from models.large import LARGE, MANY, is_large
from models.request import Request
from models.source import Source, Sources
from streams.cache.freshness import UNKEYED, read_request_directives
from streams.http.url import NOWHERE, Origin, normal, origin_of
from streams.pool import LargeWork

GENERATION = 16_384
"""Requests per generation; there are two, and the older is dropped when the younger is full."""
MAX_PLAIN_BYTES, MAX_KNOWN_BYTES = 2_560, 512
"""Bytes up to which a request is cached: without nested values, and with."""
PLAIN_FACTOR, NESTED_FACTOR, OVERHEAD = 3, 22, 512
"""Bytes of memory for each byte of a cached request, at most, and for the entry itself."""
GENERATION_BYTES = 24 << 20
"""Approximate bytes of memory of a generation; usual requests take 10 MiB."""
CACHEABLE_METHODS = frozenset({"GET", "HEAD"})
"""Methods with cacheable answers: the safe ones (RFC 9110, section 9.2.1) that return something."""

# Ids of printable ASCII without quote and backslash are written in JSON as they are; others are parsed.
_ID = rb'"id"[ \t\r\n]*:[ \t\r\n]*("[ !#-\[\]-~]{1,128}")[ \t\r\n]*'
_LEADING_ID = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*" + _ID + rb",(.*)", re.DOTALL)
_TRAILING_ID = re.compile(_ID + rb"\}[ \t\r\n]*\Z")


class ParsedRequest(NamedTuple):
    """A valid request without its id. `key` identifies its cache entry, None if the answer must not be cached.

    `max_age` is in seconds, None if any age will do; `min_fresh` is the seconds the answer must stay fresh, and
    then `max_age` is not None. A source's template is filled in. `checks` has a `check_key` for each check.
    """

    request: Request
    key: bytes | None
    max_age: float | None
    source: Source | None = None
    checks: tuple[str, ...] = ()
    min_fresh: float = 0.0
    only_if_cached: bool = False
    origin: Origin = NOWHERE

    def takes(self, as_of: float, fresh_until: float, now: float) -> bool:
        """Whether an answer with these times (epoch seconds) is new enough and stays fresh long enough."""
        return self.max_age is None or (now - as_of <= self.max_age and now + self.min_fresh <= fresh_until)

    def passes_over(self, as_of: float | None, now: float) -> bool:
        """Whether a stale answer, or one of unknown freshness, is too old (epoch seconds)."""
        return self.max_age is not None and (self.min_fresh > 0 or now - (as_of or 0.0) > self.max_age)


class LargeRequest(Exception):
    """A request too large for the event loop: use `ParsedRequestCache.read_large`."""


class ParsedRequestCache:
    """A bounded cache from a request's bytes, without the id, to the parsed request. `large` parses large ones.

    A request with a context or in a CloudEvent is not kept: they differ from one to the next, and would take
    the places of others.
    """

    def __init__(self, sources: Sources | None = None, large: LargeWork | None = None) -> None:
        self._sources = sources or Sources()
        self._large = large
        self._young: dict[bytes, ParsedRequest] = {}
        self._old: dict[bytes, ParsedRequest] = {}
        self._young_bytes = 0

    def is_large(self, value: bytes | None) -> bool:
        """Whether `parse` raises LargeRequest."""
        return self._large is not None and value is not None and is_large(value) and len(value) <= requests.MAX_BYTES

    def parse(self, value: bytes | None) -> tuple[bytes | None, ParsedRequest]:
        """Return the id as JSON, None if there is none, and the request. Raises InvalidRequest, LargeRequest."""
        if value is None or (len(value) > MANY and is_large(value)):
            if self.is_large(value):
                raise LargeRequest
            request_id, rest = None, None  # `requests.parse` raises the error
        else:
            request_id, rest = cut_id(value)
        if rest is not None:
            known = self._young.get(rest) or self._promoted(rest)
            if known is not None:
                return request_id, known
            usual = requests.parse_usual(rest)
            if usual is not None:
                known = parse_request(usual, self._sources)
                if len(rest) <= MAX_PLAIN_BYTES:
                    self._remember(rest, known, nested=False)
                return request_id, known
        text, request = requests.parse(value)
        known = parse_request(request, self._sources)
        parsed_id = None if text is None else strictjson.quote(text)
        # `cut_id` does not see an id written with escapes ("\\u0069d"): it would be lost with the rest.
        if rest is not None and parsed_id == request_id:
            nested = _is_nested(known.request)
            one_of_many = known.request.context is None and known.request.trace is None
            if one_of_many and len(rest) <= (MAX_KNOWN_BYTES if nested else MAX_PLAIN_BYTES):
                self._remember(rest, known, nested=nested)
        return parsed_id, known

    async def read_large(self, value: bytes) -> tuple[bytes | None, ParsedRequest]:
        """Parse in another process, nested values left as text. Raises InvalidRequest, Overloaded, InternalError."""
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

    Only an id that is the first or the last member can be cut out of the text; otherwise there is no rest.
    """
    found = _LEADING_ID.match(value)
    if found is not None:
        request_id, rest = found.groups()
        return request_id, b"{" + rest
    last = value.rfind(b'"id"')
    if last < 0:
        return None, value
    found = _TRAILING_ID.match(value, last)
    if found is not None:
        members = value[:last].rstrip(b" \t\r\n")
        if members.endswith(b","):
            return found[1], members[:-1] + b"}"
    return None, None


def parse_request(request: Request, sources: Sources | None = None) -> ParsedRequest:
    """Fill in the source's template and compute the keys. Raises InvalidRequest if the source refuses the request."""
    source = None
    if request.source is not None:
        request, source = (sources or Sources()).expand(request)
    kept = request.method in CACHEABLE_METHODS or (source is not None and source.cache.methods_too)
    checks, origin = tuple(map(check_key, request.checks)), origin_of(request.url)
    if not request.headers:
        key = entry_key(request, source) if kept else None
        return ParsedRequest(request, key, request.max_age, source, checks, origin=origin)
    directives = read_request_directives(request.headers)
    key = entry_key(request, source) if kept and not directives.no_store else None
    ages = [age for age in (request.max_age, directives.max_age) if age is not None]
    return ParsedRequest(
        request, key, min(ages, default=None), source, checks, directives.min_fresh, directives.only_if_cached, origin
    )


def entry_key(request: Request, source: Source | None = None) -> bytes:
    """Return the cache key of a request: requests with equal keys get the same document.

    It is `<source>-<target>-<digest>` in hex, so that entries can be found by source and URL. The digest covers method,
    schema, URL as sent, source (its whole definition), parameters, headers (names without case, RFC 9110, section 5.1)
    and body, but not deadline, max_age, checks, context, and headers for caches and traces. None of the first
    four lines can contain a line break, and no URL begins with a quote, so different requests give different texts.
    """
    url = None if request.url is None else normal(request.url)
    target = url or strictjson.quote(request.source or "").decode()
    identity = "" if source is None else source.identity
    plain = f"{identity}\n{request.method}\n{request.schema}\n{target}".encode()
    headers = request.headers and {
        name.lower(): value for name, value in request.headers.items() if name.lower() not in UNKEYED
    }
    params = request.params
    if source is not None and source.batch is not None and url is not None:
        params = {}  # they are in URL, headers and body already
    if params or headers or request.body is not None:
        plain += b"\n" + strictjson.canonical({"params": params, "headers": headers, "body": request.body})
    digest = hashlib.blake2b(plain, digest_size=20).hexdigest()
    return f"{source_tag(request.source)}-{_target_tag(url)}-{digest}".encode()


def check_key(call: Call) -> str:
    """Return the key of a check: equal for the same name, field and arguments."""
    plain = strictjson.canonical([call.name, call.field, call.args])
    return hashlib.blake2b(plain, digest_size=20).hexdigest()


@lru_cache(maxsize=1_024)
def source_tag(name: str | None) -> str:
    """Return the part of a key that identifies the source; zeros for a plain URL."""
    return "0" * 8 if name is None else hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def target_tag(url: str | None) -> str:
    """Return the part of a key that identifies the URL, however it is spelled; zeros for a function."""
    return _target_tag(None if url is None else normal(url))


def _target_tag(url: str | None) -> str:
    return "0" * 16 if url is None else hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def matching(url: str | None = None, source: str | None = None) -> Callable[[bytes], bool]:
    """Return a test for keys of a URL or of a source; without either it accepts all keys."""
    if source is not None:
        wanted = f"{source_tag(source)}-".encode()
        return lambda key: key.startswith(wanted)
    if url is not None:
        wanted = f"-{target_tag(url)}-".encode()
        return lambda key: wanted in key
    return lambda _: True


def salvage_context(value: bytes | None) -> bytes | None:
    """Return the context of an invalid request, None for a large one."""
    if value is None or len(value) > LARGE or b'"context"' not in value:
        return None
    try:
        return requests.encode_context(_members(value)["context"])
    except (ValueError, TypeError, KeyError, ValidationError, InvalidRequest):
        return None


def _members(value: bytes) -> Any:
    """Return what may be the members of a request, or of the one in a CloudEvent, which has the event's id."""
    members = strictjson.loads(value, exact=True)
    if not cloudevent.is_event(members):
        return members
    found = {"id": cloudevent.check_id("id", members["id"])}
    return found | members["data"] if isinstance(members.get("data"), dict) else found


def salvage_id(value: bytes | None) -> bytes | None:
    """Return the id, as JSON, of an invalid request, so that its sender recognizes the result; None without one."""
    if value is not None and len(value) > LARGE:
        return cut_id(value)[0]
    try:
        text = _members(value or b"")["id"]
        if not isinstance(text, str):
            return None
        return strictjson.quote(requests.check_id(text))
    except (ValueError, TypeError, KeyError, InvalidRequest):
        return None
