"""A result: what a consumer reads. An answer is encoded once; what differs from request to request (its id,
how the cache was involved, how long it took) is spliced around the encoded part.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from marshmallow import fields, validate

from models import strictjson
from models.checks import Call, Verdict
from models.errors import OUTCOMES, AnswerError, CheckError
from models.request import Request
from models.schema import StrictSchema

RESULT_DEPTH = strictjson.MAX_DEPTH + 8
"""Levels that a result may nest: a document's, or a check's value's, below the result's own."""
CACHE_STATES = ("hit", "miss", "coalesced", "stale", "revalidated", "bypass")
"""Every value of a result's `cache`."""


# What is kept of an `ok` result. By hand: marshmallow takes 140 µs for what is looked at on each hit of a lower tier.
_SHARED = frozenset({"outcome", "request", "status", "document", "checks", "attempts", "fetched_at"})
_ECHO = frozenset({"method", "url", "source"})
_VERDICT = frozenset({"name", "field", "value", "elapsed_ms"})
_TAIL = re.compile(rb',"attempts":\d{1,6},"fetched_at":"[0-9T:.Z-]{20,30}"\Z')


@dataclass(slots=True)
class Answer:
    """What came of asking once: everything in a result that is the same for all who asked the same.

    `fetched_at` is in seconds since the epoch, None if nothing was fetched.
    """

    outcome: str
    status: int | None = None
    document: Any = None
    has_document: bool = False
    checks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    attempts: int | None = None
    fetched_at: float | None = None
    error: AnswerError | None = None

    @classmethod
    def failed(cls, error: AnswerError) -> Answer:
        """Make the answer for a request that ended in an error."""
        return cls(error.outcome, status=getattr(error, "status", None), attempts=error.attempts, error=error)

    def judge(self, calls: tuple[Call, ...], verdicts: list[Verdict]) -> None:
        """Add what the checks said; one that failed to say anything makes the outcome `check_error`."""
        for call, verdict in zip(calls, verdicts, strict=True):
            entry: dict[str, Any] = {"name": call.name}
            if call.field is not None:
                entry["field"] = call.field
            if verdict.error is None:
                entry["value"] = verdict.value
            else:
                entry["error"] = verdict.error
                where = f" on {call.field!r}" if call.field else ""
                self.error = self.error or CheckError(f"check {call.name}{where}: {verdict.error}")
                self.outcome = CheckError.outcome
            entry["elapsed_ms"] = round(verdict.elapsed * 1000, 3)
            self.checks.append(entry)


def encode_answer(request: Request | None, answer: Answer) -> bytes:
    """Encode the shared part of a result: JSON members without braces, ready for `splice`."""
    members: dict[str, Any] = {"outcome": answer.outcome}
    if request is not None:
        method = None if request.url is None else request.method  # a function is called, not asked by a method
        echo = {"method": method, "url": request.url, "source": request.source}
        members["request"] = {name: value for name, value in echo.items() if value is not None}
    if answer.status is not None:
        members["status"] = answer.status
    if answer.has_document:
        members["document"] = answer.document
    if answer.checks:
        members["checks"] = answer.checks
    if answer.attempts is not None:
        members["attempts"] = answer.attempts
    if answer.fetched_at is not None:
        members["fetched_at"] = _timestamp(answer.fetched_at)
    if answer.error is not None:
        members["error"] = answer.error.describe()
    return strictjson.dumps(members)[1:-1]


def restamp(shared: bytes, attempts: int, fetched_at: float) -> bytes:
    """Return an `ok` answer's shared part as of another time: the upstream says that it still holds.

    `attempts` and `fetched_at` are its last members, so what a document says cannot be taken for them.
    """
    end = shared.rindex(b',"attempts":')
    return b'%b,"attempts":%d,"fetched_at":"%b"' % (shared[:end], attempts, _timestamp(fetched_at).encode())


def is_shared(shared: bytes) -> bool:
    """Whether bytes are the shared part of an `ok` result, which `splice` and `restamp` can make a whole one of."""
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
        and _are_verdicts(members.get("checks", []))
        and _TAIL.search(shared) is not None
    )


def _is_echo(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= _ECHO and all(isinstance(each, str) for each in value.values())


def _are_verdicts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and {"name", "value", "elapsed_ms"} <= each.keys() <= _VERDICT
        and isinstance(each["name"], str)
        and isinstance(each.get("field", ""), str)
        and type(each["elapsed_ms"]) in (int, float)
        for each in value
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


def _timestamp(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


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


class ResultSchema(StrictSchema):
    """The JSON of a result, for those who read it: `tail`, the tables, the tests, the API's document."""

    id = fields.String(required=True)
    outcome = fields.String(required=True, validate=validate.OneOf(OUTCOMES))
    request = fields.Nested(_EchoSchema)
    status = fields.Integer(strict=True)
    document = fields.Raw(allow_none=True)
    checks = fields.List(fields.Nested(_CheckResultSchema))
    cache = fields.String(validate=validate.OneOf(CACHE_STATES))
    age = fields.Float()
    attempts = fields.Integer(strict=True)
    elapsed_ms = fields.Float(required=True)
    fetched_at = fields.String()
    error = fields.Nested(_ErrorSchema)
