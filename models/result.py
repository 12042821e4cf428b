"""A result: what a consumer reads. An answer is encoded once; what differs per request (id, cache state, times) is
spliced around the encoded part.

This module alone knows the order of a result's members, and reads some of them without parsing the rest. No string can
contain the bytes that a member begins with, since a quote in it is escaped; nor can a context, which has blanks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from models import strictjson
from models.checks import Call, CheckOutcome
from models.errors import AnswerError, CheckError, TooLarge
from models.moment import iso
from models.request import Request

RESULT_DEPTH = strictjson.MAX_DEPTH + 8
"""Nesting depth of a result: that of a document or a check's value, plus the result's own levels."""
RESULT_ROOM = 2_048
"""Bytes of a record beside the answer: id, times, headers and a key of usual length. A record that is larger still is
made smaller when it is published."""
CACHE_STATES = ("hit", "miss", "coalesced", "stale", "revalidated", "bypass")
"""Every value of a result's `cache`."""


# Members of a cached `ok` result. Checked by hand on each hit of a lower tier: marshmallow takes 140 µs.
_SHARED = frozenset({"outcome", "request", "status", "document", "headers", "attempts", "fetched_at"})
_ECHO = frozenset({"method", "url", "source"})
_CHECK_RESULT = frozenset({"name", "field", "value", "elapsed_ms"})
_SCANNER = json.JSONDecoder()
_OK, _DOCUMENT, _HEADERS = b'"outcome":"ok"', b',"document":', b',"headers":{'
_CHECKS, _ATTEMPTS, _CACHE, _ELAPSED = b',"checks":[', b',"attempts":', b',"cache":"', b',"elapsed_ms":'
_SHARED_TAIL = re.compile(rb',"attempts":\d{1,6},"fetched_at":"[0-9T:.Z-]{20,30}"\Z')
_RETRY_AT = b',"retry_at":"'
_CONTEXT, _OUTCOME = b',"context":', b',"outcome":"'
_ID = re.compile(rb'\{"id":("[ !#-\[\]-~]{1,500}"),')
_TAIL = re.compile(
    rb'(?:,"cache":"([a-z]{1,16})")?(?:,"age":[0-9]{1,12}\.[0-9])?,"elapsed_ms":([0-9]{1,12}\.[0-9])\}\Z'
)
_TAIL_BYTES = 1_024
_BEHIND = {
    "attempts": re.compile(rb',"attempts":([0-9]{1,6})(?=[,}])'),
    "elapsed_ms": re.compile(rb',"elapsed_ms":([0-9.]{1,15})(?=[,}])'),
}
_STATES = {state.encode(): state for state in CACHE_STATES}
MAX_CANDIDATES = 8
"""Positions before a result's end that are tried as the beginning of its checks."""
CHECKS_BYTES = 256 << 10
"""Bytes before a result's end in which its checks are searched."""


@dataclass(slots=True)
class Answer:
    """The part of a result that all requests for the same document share.

    `fetched_at` is in seconds since the epoch, None if nothing was fetched. `encoded` is the document's JSON, if
    known. `headers` are the response headers that the source copies to results, None without any.
    """

    outcome: str
    status: int | None = None
    document: Any = None
    has_document: bool = False
    headers: Mapping[str, str] | None = None
    attempts: int | None = None
    fetched_at: float | None = None
    error: AnswerError | None = None
    encoded: bytes | None = None

    @classmethod
    def failed(cls, error: AnswerError) -> Answer:
        """Make the answer for a request that ended in an error."""
        return cls(
            error.outcome,
            status=getattr(error, "status", None),
            headers=error.headers,
            attempts=error.attempts,
            error=error,
        )


def encode_answer(request: Request | None, answer: Answer) -> bytes:
    """Encode the shared part of a result: JSON members without braces, ready for `splice`."""
    head = b'"outcome":"%b"' % answer.outcome.encode()
    if request is not None:
        head = b'%b,"request":{%b}' % (head, _echo(request))
    if answer.status is not None:
        head = b'%b,"status":%d' % (head, answer.status)
    if answer.has_document:
        document = strictjson.dumps(answer.document) if answer.encoded is None else answer.encoded
        head = b'%b,"document":%b' % (head, document)
    if answer.headers is not None:
        head = b'%b,"headers":%b' % (head, strictjson.dumps(answer.headers))
    if answer.attempts is not None:
        head = b'%b,"attempts":%d' % (head, answer.attempts)
    if answer.fetched_at is not None:
        head = b'%b,"fetched_at":"%b"' % (head, iso(int(answer.fetched_at * 1000)).encode())
    if answer.error is not None:
        head = b'%b,"error":%b' % (head, _encode_error(*answer.error.describe().items()))
    return head


def _echo(request: Request) -> bytes:
    source = b"" if request.source is None else b'"source":%b' % strictjson.quote(request.source)
    if request.url is None:  # a function is called, without a method
        return source
    return b'"method":"%b","url":%b%b' % (
        request.method.encode(), strictjson.quote(request.url), source and b"," + source,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _encode_error(*members: tuple[str, str | bool]) -> bytes:
    """Encode an error; cached, as one may refuse many requests."""
    return strictjson.dumps(dict(members))


def too_large(size: int, limit: int) -> TooLarge:
    """Return the error of a result that is too large for its topic; both numbers are in bytes."""
    return TooLarge(f"the result has {size} bytes; the results topic takes {limit}")


def encode_check_result(call: Call, outcome: CheckOutcome) -> bytes:
    """Encode an item of a result's `checks`: the value of a check, or its error."""
    members: dict[str, Any] = {"name": call.name}
    if call.field is not None:
        members["field"] = call.field
    members |= {"value": outcome.value} if outcome.error is None else {"error": outcome.error}
    members["elapsed_ms"] = round(outcome.elapsed * 1000, 3)
    return strictjson.dumps(members)


def failure(call: Call, outcome: CheckOutcome) -> CheckError | None:
    """Return the error of a result whose check failed, None if it did not."""
    if outcome.error is None:
        return None
    where = f" on {call.field!r}" if call.field else ""
    return CheckError(f"check {call.name}{where}: {outcome.error}")


def with_check_results(shared: bytes, results: bytes, error: CheckError | None) -> bytes:
    """Return an `ok` answer's shared part with check results, JSON items; an `error` turns it into a `check_error`.

    The last members are `attempts` and `fetched_at`, so a document cannot be mistaken for them.
    """
    end = shared.rindex(_ATTEMPTS)
    checked = b'%b,"checks":[%b]%b' % (shared[:end], results, shared[end:])
    if error is None:
        return checked
    return b'"outcome":"%b"%b,"error":%b' % (
        error.outcome.encode(), checked[len(_OK):], strictjson.dumps(error.describe()),
    )  # fmt: skip


def restamp(shared: bytes, attempts: int, fetched_at: float, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a revalidated answer's shared part with new `attempts` and time. New `headers` replace those of the same
    names, if results carry any (RFC 9111, section 3.2).
    """
    end = shared.rindex(_ATTEMPTS)
    start = shared.rfind(_HEADERS, 0, end) if headers else -1
    if start >= 0:
        kept = strictjson.loads(shared[start + len(_HEADERS) - 1 : end])
        shared = shared[:start] + _HEADERS[:-1] + strictjson.dumps({**kept, **(headers or {})}) + shared[end:]
        end = shared.rindex(_ATTEMPTS)
    return b'%b,"attempts":%d,"fetched_at":"%b"' % (shared[:end], attempts, iso(int(fetched_at * 1000)).encode())


def is_shared(shared: bytes) -> bool:
    """Whether bytes are the shared part of an `ok` result, as `splice`, `with_check_results` and `restamp` need it."""
    try:
        members = read_result(b"{" + shared + b"}")
    except ValueError:
        return False
    return (
        isinstance(members, dict)
        and members.get("outcome") == "ok"
        and members.keys() <= _SHARED
        and type(members.get("status", 0)) is int
        and _is_echo(members.get("request", {}))
        and _are_texts(members.get("headers", {}))
        and shared.startswith(_OK)
        and _SHARED_TAIL.search(shared) is not None
    )


def _is_echo(value: Any) -> bool:
    return _are_texts(value) and value.keys() <= _ECHO


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def is_check_result(value: Any) -> bool:
    """Whether a value is a result of a check that did not fail, as `encode_check_result` writes it."""
    return (
        isinstance(value, dict)
        and {"name", "value", "elapsed_ms"} <= value.keys() <= _CHECK_RESULT
        and isinstance(value["name"], str)
        and isinstance(value.get("field", ""), str)
        and type(value["elapsed_ms"]) in (int, float)
    )


def read_result(value: bytes) -> Any:
    """Parse a result, which may nest deeper than a document. Raises ValueError."""
    return strictjson.loads(value, max_depth=RESULT_DEPTH)


def read_document(text: bytes) -> Any:
    """Parse the JSON of a result's document, or of check results, with all digits of numbers. Raises ValueError."""
    return strictjson.loads(text, max_depth=RESULT_DEPTH, exact=True)


def with_context(request_id: bytes, context: bytes | None) -> bytes:
    """Return an id as `splice` takes it, with the context behind it, if any, as `encode_context` writes it."""
    return request_id if context is None else b"%b%b%b" % (request_id, _CONTEXT, context)


def splice(request_id: bytes, shared: bytes, cache: bytes | None, age: float | None, elapsed: float) -> bytes:
    """Return a result: one request's own members around the shared part.

    `request_id` is an encoded JSON string, perhaps `with_context`; `cache` one of CACHE_STATES, `age` and `elapsed` are
    in seconds.
    """
    if cache is None:
        return b'{"id":%b,%b,"elapsed_ms":%.1f}' % (request_id, shared, elapsed * 1000)
    if age is None:
        return b'{"id":%b,%b,"cache":"%b","elapsed_ms":%.1f}' % (request_id, shared, cache, elapsed * 1000)
    return b'{"id":%b,%b,"cache":"%b","age":%.1f,"elapsed_ms":%.1f}' % (
        request_id, shared, cache, age, elapsed * 1000,
    )  # fmt: skip


def with_retry_at(value: bytes, at: float) -> bytes:
    """Return a failed result, as `splice` made it, as an interim one: with `retry_at`, when its request is tried again,
    in seconds since the epoch.
    """
    found = value.rfind(_CACHE)
    end = found if found >= 0 and _TAIL.match(value, found) else value.rfind(_ELAPSED)
    return b'%b%b%b"%b' % (value[:end], _RETRY_AT, iso(int(at * 1000)).encode(), value[end:])


def cut(value: bytes) -> tuple[bytes, bytes, str | None, float] | None:
    """Take a result apart as `splice` made it: id (JSON), shared part, cache state, elapsed milliseconds.

    None for a result in another form, or with an id that JSON escapes.
    """
    start = _ID.match(value)
    found = value.rfind(_CACHE)
    tail = _TAIL.match(value, found if found >= 0 else value.rfind(_ELAPSED))
    if start is None or tail is None:
        return None
    begin = start.end()
    if value.startswith(_CONTEXT, begin - 1):
        begin = value.find(_OUTCOME, begin) + 1
    return start[1], value[begin : tail.start()], _STATES.get(tail[1]), float(tail[2])


def context_of(value: bytes) -> bytes | None:
    """Return the context of a result as `splice` made it, None if it has none."""
    _, found, context = value[: max(0, value.find(_OUTCOME))].partition(_CONTEXT)
    return context if found else None


def document_and_checks(shared: bytes) -> tuple[bytes | None, bytes | None]:
    """Return the JSON of an `ok` shared part's document and of its check results, None for what it has not.

    No string in JSON contains these marks, and what comes behind the document cannot be mistaken for it.
    """
    _, found, rest = shared.partition(_DOCUMENT)
    document = None
    if found and _CHECKS not in rest and _HEADERS not in rest:  # nothing to tell apart: a megabyte is not parsed
        return rest[: rest.rindex(_ATTEMPTS)], None
    if found:
        document, rest = _first_value(rest)
    else:
        rest = shared
    start = rest.find(_CHECKS)
    return document, None if start < 0 else _first_value(rest[start + len(_CHECKS) - 1 :])[0]


def _first_value(data: bytes) -> tuple[bytes, bytes]:
    """Return the JSON value at the beginning of a text, and what is behind it."""
    text = data.decode()
    end: int = _SCANNER.raw_decode(text)[1]
    if not data.isascii():
        end = len(text[:end].encode())
    return data[:end], data[end:]


def around_document(shared: bytes) -> tuple[bytes, bytes, Iterator[bytes]] | None:
    """Return a shared part's members before its document, those from `attempts` on, and what may be its list of checks.

    If values of checks contain such a list themselves, the first that is complete counts. None without a document.
    """
    head, found, rest = shared.partition(_DOCUMENT)
    end = rest.rfind(_ATTEMPTS)
    return (head, rest[end + 1 :], _check_lists(rest, end)) if found and end >= 0 else None


def _check_lists(rest: bytes, end: int) -> Iterator[bytes]:
    start = end
    for _ in range(MAX_CANDIDATES):
        start = rest.rfind(_CHECKS, max(0, end - CHECKS_BYTES), start)
        if start < 0:
            return
        yield rest[start + len(_CHECKS) - 1 : end]


def members_beside_document(value: bytes) -> dict[str, Any]:
    """Return a result's members before its document, `attempts` and `elapsed_ms`; all members if it has no document.

    The members after the document are searched in the last bytes.
    """
    head, found, _ = value.partition(_DOCUMENT)
    try:
        members: dict[str, Any] = read_result(head + b"}" if found else value)
    except ValueError:  # the id is always first
        members = strictjson.loads(value[: value.index(b",")] + b"}")
    if found:
        tail = value[-_TAIL_BYTES:]
        members |= {name: strictjson.loads(each[-1]) for name, find in _BEHIND.items() if (each := find.findall(tail))}
    return members
