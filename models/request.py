"""A request: what a producer may ask, and `parse`, which turns a record's bytes into one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from models import checks, documents, strictjson
from models.checks import Call
from models.errors import InvalidRequest
from models.schema import Seconds, StrictSchema, flatten, kind

MAX_BYTES = 1 << 20
"""Bytes of a request: 1 MiB."""
MAX_ID = 128
"""Characters of a request's id."""
MAX_URL = 2048
"""Characters of a URL, as in the least of the limits that common servers and browsers keep."""
MAX_CHECKS = 64
"""Checks that one request may name."""
MAX_HEADERS = 64
"""Headers that one request may carry."""
MAX_HEADER_VALUE = 8192
"""Characters of one header value: what common servers take."""

CONNECTION_HEADERS = frozenset(
    "host content-length transfer-encoding connection keep-alive proxy-connection te trailer upgrade expect".split()
)
"""Headers that frame the message or name its receiver (RFC 9110, section 7.6.1): the client's own to set."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f]")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to fetch, load and check. `timeout` and `max_age` are in seconds; None means the worker's default."""

    id: str | None = None
    url: str | None = None
    source: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    schema: str = "json"
    checks: tuple[Call, ...] = ()
    max_age: float | None = None
    timeout: float | None = None

    def without_id(self) -> Request:
        """Return the same request for any sender: what two messages that ask the same have in common."""
        return self if self.id is None else replace(self, id=None)


def parse(value: bytes | None) -> Request:
    """Read one record's value. Raises InvalidRequest, naming the field, for anything that is no request."""
    if value is None:
        msg = "the record has no value: a tombstone is no request"
        raise InvalidRequest(msg)
    if len(value) > MAX_BYTES:
        msg = f"the request has {len(value)} bytes; at most {MAX_BYTES} are taken"
        raise InvalidRequest(msg)
    try:
        members = strictjson.loads(value)
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from None
    return load(members)


def load(members: Any) -> Request:
    """Validate a decoded request. Raises InvalidRequest with every field that is wrong."""
    if not isinstance(members, dict):
        msg = f"a request is a JSON object, not {kind(members)}"
        raise InvalidRequest(msg)
    try:
        request: Request = _SCHEMA.load(members)
    except ValidationError as exc:
        raise InvalidRequest("; ".join(flatten(exc.messages))) from None
    return request


def check_id(text: str) -> str:
    """Return `text` if it can be a request's id; raises InvalidRequest otherwise."""
    if not 1 <= len(text) <= MAX_ID:
        msg = f"id: must have 1 to {MAX_ID} characters, not {len(text)}"
        raise InvalidRequest(msg)
    return text


def check_url(url: str) -> str:
    """Return `url` if it is an absolute http(s) URL that can be asked for; raises ValidationError otherwise."""
    if len(url) > MAX_URL:
        _refuse(f"has {len(url)} characters; at most {MAX_URL} are taken")
    if _UNSENDABLE.search(url) or " " in url or "\\" in url:
        _refuse("has a space, backslash or control character: percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        _refuse(f"is no URL: {exc}")
    if parts.scheme not in ("http", "https"):
        _refuse("must be an absolute http:// or https:// URL")
    if not parts.hostname:
        _refuse("has no host")
    if port == 0 or not (parts.netloc.isascii() or parts.port is None):
        _refuse("has no valid port")
    return url


def _refuse(reason: str) -> NoReturn:
    raise ValidationError(reason)


def _check_headers(headers: dict[str, str]) -> None:
    if len(headers) > MAX_HEADERS:
        _refuse(f"{len(headers)} headers; at most {MAX_HEADERS} are taken")
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            _refuse(f"{name!r} is no header name (RFC 9110, section 5.1)")
        if lower in CONNECTION_HEADERS:
            _refuse(f"{name} is set by the worker itself")
        if lower in seen:
            _refuse(f"{name} is given twice")
        seen.add(lower)
        if _UNSENDABLE.search(value.replace("\t", "")) or not value.isascii() or value != value.strip():
            _refuse(f"{name} has a value that cannot be sent: visible ASCII only")
        if len(value) > MAX_HEADER_VALUE:
            _refuse(f"{name} has {len(value)} characters; at most {MAX_HEADER_VALUE} are taken")


class _Method(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        method = super()._deserialize(value, attr, data, **kwargs)
        if method not in _METHODS:
            _refuse(f"must be one of {', '.join(_METHODS)}")
        return method


class _Checks(fields.Field[tuple[Call, ...]]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[Call, ...]:
        if not isinstance(value, list):
            _refuse(f"must be an array of checks, not {kind(value)}")
        if len(value) > MAX_CHECKS:
            _refuse(f"{len(value)} checks; at most {MAX_CHECKS} are taken")
        calls: list[Call] = []
        wrong: dict[int, Any] = {}
        for position, item in enumerate(value):
            try:
                calls.append(_CHECK.load({"name": item} if isinstance(item, str) else item))
            except ValidationError as exc:
                wrong[position] = exc.messages
        if wrong:
            raise ValidationError(wrong)  # type: ignore[arg-type]  # marshmallow's stubs know str keys only
        return tuple(calls)


class _CheckSchema(StrictSchema):
    name = fields.String(required=True, validate=checks.check_known)
    field = fields.String(validate=validate.Length(1, 256))
    args = fields.Dict(keys=fields.String())

    @post_load
    def _call(self, data: dict[str, Any], **_: Any) -> Call:
        return Call(**data)


class RequestSchema(StrictSchema):
    """The JSON of a request; see the contract's table in docs for what each field means."""

    id = fields.String(validate=validate.Length(1, MAX_ID))
    url = fields.String(validate=check_url)
    source = fields.String(validate=validate.Length(1, 128))
    params = fields.Dict(keys=fields.String())
    method = _Method()
    headers = fields.Dict(keys=fields.String(), values=fields.String(), validate=_check_headers)
    body = fields.Raw()
    schema = fields.String(validate=documents.check_known)
    checks = _Checks()
    max_age = Seconds()
    timeout = Seconds(validate=validate.Range(min=0, min_inclusive=False))

    @validates_schema
    def _one_target(self, data: dict[str, Any], **_: Any) -> None:
        if "url" in data and "source" in data:
            raise ValidationError("give either url or source, not both", "url")
        if "url" not in data and "source" not in data:
            raise ValidationError("give a url, or a source with its params", "url")
        if "params" in data and "source" not in data:
            raise ValidationError("params go with a source", "params")

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> Request:
        return Request(**data)


_CHECK = _CheckSchema()
_SCHEMA = RequestSchema()
