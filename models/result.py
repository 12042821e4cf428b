"""A result: what a consumer reads. An answer is encoded once; what differs from request to request (its id,
how the cache was involved, how long it took) is spliced around the encoded part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from marshmallow import fields, validate

from models import strictjson
from models.checks import Call, CheckOutcome
from models.errors import OUTCOMES, AnswerError, CheckError, TooLarge
from models.moment import iso
from models.request import Request
from models.schema import StrictSchema

RESULT_DEPTH = strictjson.MAX_DEPTH + 8
"""Levels that a result may nest: a document's, or a check's value's, below the result's own."""
RESULT_ROOM = 2_048
"""Bytes of a record beside the answer in it: id, times, headers and a key of usual length. One that is larger all the
same is made smaller when it is published."""
CACHE_STATES = ("hit", "miss", "coalesced", "stale", "revalidated", "bypass")
"""Every value of a result's `cache`."""


# What is kept of an `ok` result. By hand: marshmallow takes 140 µs for what is looked at on each hit of a lower tier.
_SHARED = frozenset({"outcome", "request", "status", "document", "headers", "attempts", "fetched_at"})
_ECHO = frozenset({"method", "url", "source"})
_VERDICT = frozenset({"name", "field", "value", "elapsed_ms"})
_OK, _ATTEMPTS = b'"outcome":"ok"', b',"attempts":'
_HEADERS = b',"headers":{'
_TAIL = re.compile(rb',"attempts":\d{1,6},"fetched_at":"[0-9T:.Z-]{20,30}"\Z')


@dataclass(slots=True)
class Answer:
    """What came of asking once: everything in a result that is the same for all who asked the same.

    `fetched_at` is in seconds since the epoch, None if nothing was fetched. `encoded` is the document's JSON, if that
    is at hand. `headers` are those of the response that its source has results carry, None if it has none.
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
        head = b'%b,"request":{%b}' % (head, b",".join(_echo(request)))
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


def _echo(request: Request) -> Iterator[bytes]:
    if request.url is not None:  # a function is called, not asked by a method
        yield b'"method":"%b"' % request.method.encode()
        yield b'"url":%b' % strictjson.quote(request.url)
    if request.source is not None:
        yield b'"source":%b' % strictjson.quote(request.source)


@lru_cache(maxsize=16)
def _encode_error(*members: tuple[str, str | bool]) -> bytes:
    """Encode an error, once for the many requests that it refuses."""
    return strictjson.dumps(dict(members))


def too_large(size: int, limit: int) -> TooLarge:
    """Return the error of a result that its topic would not take: both are in bytes."""
    return TooLarge(f"the result has {size} bytes; the results topic takes {limit}")


def encode_check_result(call: Call, verdict: CheckOutcome) -> bytes:
    """Encode what one check said, or why it said nothing: an item of a result's `checks`."""
    said: dict[str, Any] = {"name": call.name}
    if call.field is not None:
        said["field"] = call.field
    said |= {"value": verdict.value} if verdict.error is None else {"error": verdict.error}
    said["elapsed_ms"] = round(verdict.elapsed * 1000, 3)
    return strictjson.dumps(said)


def failure(call: Call, verdict: CheckOutcome) -> CheckError | None:
    """Return the error of a result with a check that said nothing, None for one that did."""
    if verdict.error is None:
        return None
    where = f" on {call.field!r}" if call.field else ""
    return CheckError(f"check {call.name}{where}: {verdict.error}")


def with_check_results(shared: bytes, verdicts: bytes, error: CheckError | None) -> bytes:
    """Return an `ok` answer's shared part with what checks said, items of JSON; an `error` makes it a `check_error`.

    Its last members are `attempts` and `fetched_at`, so what a document says cannot be taken for them.
    """
    end = shared.rindex(_ATTEMPTS)
    judged = b'%b,"checks":[%b]%b' % (shared[:end], verdicts, shared[end:])
    if error is None:
        return judged
    return b'"outcome":"%b"%b,"error":%b' % (
        error.outcome.encode(), judged[len(_OK):], strictjson.dumps(error.describe()),
    )  # fmt: skip


def restamp(shared: bytes, attempts: int, fetched_at: float, headers: Mapping[str, str] | None = None) -> bytes:
    """Return an `ok` answer's shared part as of another time: the upstream says that it still holds. Its `headers`, if
    results carry any, take the place of those of their names (RFC 9111, section 3.2).

    As for `with_checks`, a document cannot say what is taken for its last members.
    """
    end = shared.rindex(_ATTEMPTS)
    start = shared.rfind(_HEADERS, 0, end) if headers else -1
    if start >= 0:
        kept = strictjson.loads(shared[start + len(_HEADERS) - 1 : end])
        shared = shared[:start] + _HEADERS[:-1] + strictjson.dumps({**kept, **(headers or {})}) + shared[end:]
        end = shared.rindex(_ATTEMPTS)
    return b'%b,"attempts":%d,"fetched_at":"%b"' % (shared[:end], attempts, iso(int(fetched_at * 1000)).encode())


def is_shared(shared: bytes) -> bool:
    """Whether bytes are the shared part of an `ok` result, which `splice`, `with_checks` and `restamp` can make a whole
    one of.
    """
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
        and _TAIL.search(shared) is not None
    )


def _is_echo(value: Any) -> bool:
    return _are_texts(value) and value.keys() <= _ECHO


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def is_check_result(value: Any) -> bool:
    """Whether a value is what `encode_verdict` makes of a check that did not fail."""
    return (
        isinstance(value, dict)
        and {"name", "value", "elapsed_ms"} <= value.keys() <= _VERDICT
        and isinstance(value["name"], str)
        and isinstance(value.get("field", ""), str)
        and type(value["elapsed_ms"]) in (int, float)
    )


def read_result(value: bytes) -> Any:
    """Parse a result: its document may nest as deep as any, one level further down. Raises ValueError."""
    return strictjson.loads(value, max_depth=RESULT_DEPTH)


def splice(request_id: bytes, shared: bytes, cache: bytes | None, age: float | None, elapsed: float) -> bytes:
    """Put one request's own members around the shared part.

    `request_id` is an encoded JSON string, `cache` one of CACHE_STATES, `age` and `elapsed` are in seconds.
    """
    if cache is None:
        return b'{"id":%b,%b,"elapsed_ms":%.1f}' % (request_id, shared, elapsed * 1000)
    if age is None:
        return b'{"id":%b,%b,"cache":"%b","elapsed_ms":%.1f}' % (request_id, shared, cache, elapsed * 1000)
    return b'{"id":%b,%b,"cache":"%b","age":%.1f,"elapsed_ms":%.1f}' % (
        request_id, shared, cache, age, elapsed * 1000,
    )  # fmt: skip


class _EchoSchema(StrictSchema):
    method = fields.String()
    url = fields.String()
    source = fields.String()


class _CheckResultSchema(StrictSchema):
    name = fields.String(required=True)
    field = fields.String()
    value = fields.Raw(allow_none=True)
    error = fields.String()
    elapsed_ms = fields.Float(required=True)


class _ErrorSchema(StrictSchema):
    type = fields.String(required=True)
    message = fields.String(required=True)
    retryable = fields.Boolean(required=True)
    body = fields.String()
    body_truncated = fields.Boolean()


class ResultSchema(StrictSchema):
    """The JSON of a result, for those who read it: `tail`, the tables, the tests, the API's document."""

    id = fields.String(required=True)
    outcome = fields.String(required=True, validate=validate.OneOf(OUTCOMES))
    request = fields.Nested(_EchoSchema)
    status = fields.Integer(strict=True)
    document = fields.Raw(allow_none=True)
    headers = fields.Dict(keys=fields.String(), values=fields.String())
    checks = fields.List(fields.Nested(_CheckResultSchema))
    cache = fields.String(validate=validate.OneOf(CACHE_STATES))
    age = fields.Float()
    attempts = fields.Integer(strict=True)
    elapsed_ms = fields.Float(required=True)
    fetched_at = fields.String()
    error = fields.Nested(_ErrorSchema)
