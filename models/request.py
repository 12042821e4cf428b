"""A request: what a producer may request, and `parse`, which reads one from the bytes of a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from marshmallow import ValidationError, fields, post_load, validate

from models import checks, cloudevent, documents, strictjson
from models.checks import Call
from models.errors import InvalidRequest
from models.framing import envelope, framing
from models.headers import check_headers, check_method
from models.schema import Seconds, StrictSchema, Text, flatten, kind, problems, refuse
from models.url import MAX_URL, USUAL_URL, check_url

MAX_BYTES = 1 << 20
"""Bytes of a request: 1 MiB."""
MAX_ID = 128
"""Characters of a request's id."""
MAX_FIELDS = 64
"""Fields of a request, known or not, that are looked at one by one."""
MAX_TIMEOUT = 300.0
"""Longest `timeout` in seconds: an unfinished request holds its partition's commit point."""
MAX_CHECKS = 64
"""Checks of one request."""
MAX_PATTERNS = 8
"""Different regular expressions among them: a worker compiles each before the request begins, in 2 ms at most."""

MAX_CONTEXT = 64 << 10
"""Bytes of a request's context, as compact JSON."""

SOURCE_SCHEMA = ""
"""The `schema` of a request that names a source but no schema: the source's own."""

_USUAL_TEXT = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"url"[ \t\r\n]*:[ \t\r\n]*"([!#-\[\]-~]+)"[ \t\r\n]*'
    rb'(?:,[ \t\r\n]*"timeout"[ \t\r\n]*:[ \t\r\n]*([1-9][0-9]{0,2})[ \t\r\n]*)?\}[ \t\r\n]*'
)
_USUAL_NAMES = frozenset({"id", "url", "source", "params", "max_age", "timeout"})
_USUAL_AGE = 1e9


_NONE: Mapping[str, Any] = MappingProxyType({})


class Request(NamedTuple):
    """What to fetch, load and check. The id is not part of it: requests with different ids may be equal.

    `timeout` and `max_age` are in seconds; None means the worker's default. `context` is JSON that the result repeats,
    as `splice` wants it; it asks for nothing. `trace` are headers that its CloudEvent has, None for a request without.
    """

    url: str | None = None
    source: str | None = None
    params: Mapping[str, Any] = _NONE
    method: str = "GET"
    headers: Mapping[str, str] = _NONE
    body: Any = None
    schema: str = "json"
    checks: tuple[Call, ...] = ()
    max_age: float | None = None
    timeout: float | None = None
    context: bytes | None = None
    trace: tuple[tuple[str, bytes], ...] | None = None


def parse(value: bytes | None) -> tuple[str | None, Request]:
    """Read a record's value; returns the id (None if it has none) and the request.

    Raises InvalidRequest, naming the field, for an invalid request.
    """
    if value is None:
        msg = "the record has no value: a tombstone is not a request"
        raise InvalidRequest(msg)
    if len(value) > MAX_BYTES:
        msg = f"the request has {len(value)} bytes; at most {MAX_BYTES} are allowed"
        raise InvalidRequest(msg)
    try:
        members = strictjson.loads(value, exact=True)
    except ValueError as exc:
        raise InvalidRequest(framing(value) or str(exc)) from None
    return load(members)


def parse_usual(text: bytes) -> Request | None:
    """Return the request of a JSON text with a usual URL, perhaps with a timeout, and nothing else; None for any other.

    A third of what `parse` takes, for floods of different URLs.
    """
    found = _USUAL_TEXT.fullmatch(text)
    if found is None:
        return None
    url, timeout = found[1].decode(), None if found[2] is None else float(found[2])
    if len(url) > MAX_URL or not USUAL_URL.fullmatch(url) or (timeout is not None and timeout > MAX_TIMEOUT):
        return None
    return Request(url, timeout=timeout)


def load(members: Any) -> tuple[str | None, Request]:
    """Validate a decoded request and return its id and the rest. Raises InvalidRequest with every wrong field.

    A CloudEvent in structured mode is unwrapped; its id is that of a request without one.
    """
    if cloudevent.is_event(members):
        event = cloudevent.unwrap(members)
        request_id, request = _load_as_sent(event.data)
        return request_id or event.id, request._replace(trace=event.trace)
    return _load_as_sent(members)


def _load_as_sent(members: Any) -> tuple[str | None, Request]:
    """Do the same for a request, and name what it is wrapped in."""
    try:
        return _load(members)
    except InvalidRequest as exc:
        around = envelope(members)
        if around is None:
            raise
        raise InvalidRequest(around) from exc


def _load(members: Any) -> tuple[str | None, Request]:
    if not isinstance(members, dict):
        msg = f"a request is a JSON object, not {kind(members)}"
        raise InvalidRequest(msg)
    usual = _load_usual(members)
    if usual is not None:
        return usual
    if len(members) > MAX_FIELDS:
        msg = f"a request has {len(_SCHEMA.fields)} fields at most, not {len(members)}"
        raise InvalidRequest(msg)
    try:
        names = frozenset(members)
        # Names that a producer invents must not get into the cache: their number and length are unbounded.
        schema = _schema_for(names) if names <= _SCHEMA.fields.keys() else _SCHEMA
        loaded: tuple[str | None, Request] = schema.load(members)
    except ValidationError as exc:
        refused = InvalidRequest("; ".join(flatten(exc.messages)))
        refused.fields = tuple((".".join(path), reason) for path, reason in problems(exc.messages))
        raise refused from None
    return loaded


def _load_usual(members: dict[str, Any]) -> tuple[str | None, Request] | None:
    """Load a usual request, id and URL or source, perhaps with times, at a tenth of the schema's cost; None for any
    other.
    """
    if not members.keys() <= _USUAL_NAMES:
        return None
    request_id, request = members.get("id"), _usual_request(members)
    if request is None:
        return None
    if "id" in members and not (type(request_id) is str and 1 <= len(request_id) <= MAX_ID):
        return None
    times: dict[str, float] = {}
    for name, most in (("max_age", _USUAL_AGE), ("timeout", MAX_TIMEOUT)):
        if name in members:
            seconds = members[name]
            if type(seconds) not in (int, float) or not 0 < seconds <= most:
                return None
            times[name] = float(seconds)
    if times:
        request = request._replace(max_age=times.get("max_age"), timeout=times.get("timeout"))
    return request_id, request


def _usual_request(members: dict[str, Any]) -> Request | None:
    """Return the request of a usual URL, or of a source with parameters; None for any other."""
    if "source" not in members:
        url = members.get("url")
        usual = type(url) is str and len(url) <= MAX_URL and USUAL_URL.fullmatch(url) and "params" not in members
        return Request(url) if usual else None
    source, params = members["source"], members.get("params", _NONE)
    if "url" in members or type(source) is not str or not 1 <= len(source) <= MAX_ID:
        return None
    if params is not _NONE and type(params) is not dict:
        return None
    return Request(source=source, params=params, schema=SOURCE_SCHEMA)


@lru_cache(maxsize=512)
def _schema_for(names: frozenset[str]) -> RequestSchema:
    """Return a schema of the given fields only: absent ones cost marshmallow time too, 8 of 19 µs."""
    return RequestSchema(only=sorted(names))


def check_id(text: str) -> str:
    """Return `text` if it can be a request's id; raises InvalidRequest otherwise."""
    try:
        _check_length(text)
    except ValidationError as exc:
        msg = f"id: {exc.messages[0]}"
        raise InvalidRequest(msg) from None
    return text


def encode_context(value: Any) -> bytes:
    """Return a context's JSON, with a blank behind each comma: it cannot contain what the members of a result begin
    with. Raises ValidationError for one that is too large.
    """
    text = strictjson.dumps_spaced(value)
    if len(text) > MAX_CONTEXT and (size := len(strictjson.dumps(value, exact=True))) > MAX_CONTEXT:
        refuse(f"has {size} bytes; at most {MAX_CONTEXT} are allowed")
    return text


def _check_length(text: str) -> None:
    if not 1 <= len(text) <= MAX_ID:
        refuse(f"must have 1 to {MAX_ID} characters, not {len(text)}")


class Checks(fields.Field[tuple[Call, ...]]):
    """An array of checks: names, or objects with `name`, `field` and `args`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[Call, ...]:  # noqa: ARG002
        if not isinstance(value, list):
            refuse(f"must be an array of checks, not {kind(value)}")
        if len(value) > MAX_CHECKS:
            refuse(f"{len(value)} checks; at most {MAX_CHECKS} are allowed")
        if len({pattern for each in value if (pattern := _pattern_of(each)) is not None}) > MAX_PATTERNS:
            refuse(f"more than {MAX_PATTERNS} different regular expressions")
        calls: list[Call] = []
        wrong: dict[int, Any] = {}
        for position, item in enumerate(value):
            if wrong and _pattern_of(item) is not None:
                continue  # each may take 2 ms of the event loop to compile, most of all those that are refused
            try:
                calls.append(_CHECK.load({"name": item} if isinstance(item, str) else item))
            except ValidationError as exc:
                wrong[position] = exc.messages
        if wrong:
            raise ValidationError(wrong)
        return tuple(calls)


class Context(fields.Field[bytes]):
    """Any JSON value; loaded, it is text."""

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **options: Any) -> Any:
        """Return the text of any value, null too, which is as good a context as others."""
        return encode_context(value) if value is None else super().deserialize(value, attr, data, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bytes:  # noqa: ARG002
        return encode_context(value)


def _pattern_of(item: Any) -> tuple[str, bool] | None:
    """Return what a check has to compile: a pattern, and whether it ignores case."""
    args = item.get("args") if isinstance(item, dict) and item.get("name") == "regex" else None
    if not isinstance(args, dict) or args.get("pattern") is None:
        return None
    return str(args["pattern"]), bool(args.get("ignore_case", False))


class _CheckSchema(StrictSchema):
    name = fields.String(required=True, validate=checks.check_known)
    field = fields.String(validate=validate.Length(1, 256))
    args = fields.Dict(keys=fields.String())

    @post_load
    def _call(self, data: dict[str, Any], **_: Any) -> Call:
        call = Call(**data)
        checks.check_call(call)
        return call


class RequestSchema(StrictSchema):
    """The JSON of a request; docs/requests.md describes each field."""

    id = Text(_check_length)
    url = Text(check_url)
    source = Text(_check_length)
    params = fields.Dict(keys=fields.String())
    method = Text(check_method)
    headers = fields.Dict(keys=fields.String(), values=fields.String(), validate=check_headers)
    body = fields.Raw(allow_none=True)
    schema = Text(documents.check_known)
    checks = Checks()
    max_age = Seconds()
    timeout = Seconds(validate=validate.Range(0, MAX_TIMEOUT, min_inclusive=False))
    context = Context()

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> tuple[str | None, Request]:
        if ("url" in data) == ("source" in data):
            both = "url" in data
            raise ValidationError(
                "give either url or source, not both" if both else "missing: give a url or a source", "url"
            )
        if "params" in data and "source" not in data:
            msg = "only allowed with a source"
            raise ValidationError(msg, "params")
        if "source" in data:
            data.setdefault("schema", SOURCE_SCHEMA)
        return data.pop("id", None), Request(**data)


_CHECK = _CheckSchema()
_SCHEMA = RequestSchema()
