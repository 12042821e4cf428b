"""The form of sources.toml, as marshmallow schemas: what may stand in it, and the Source that it makes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from models import documents, strictjson
from models.checks import Call
from models.errors import Denied, InvalidRequest
from models.request import HEADER_NAME, MAX_TIMEOUT, Checks, check_headers, check_method, check_url
from models.schema import Seconds, StrictSchema, Text, kind
from models.source import (
    MAX_REDIRECTS,
    NEGATIVE_KINDS,
    ApiKey,
    Auth,
    Basic,
    Bearer,
    CachePolicy,
    ClientCredentials,
    Limits,
    Param,
    Retries,
    Secret,
    Source,
    Tls,
)
from models.template import HeaderTemplate, JsonTemplate, Template, UrlTemplate, as_text

CALL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A plugin's function: `package.module:function`."""
MAX_ATTEMPTS = 20
"""Tries that a source may ask for."""
MAX_RESPONSE_HEADERS = 50
"""Headers of an answer that a source may have results carry."""
MAX_TTL = 30 * 86_400.0
"""Seconds that a source may have answers fresh: 30 days, as long as memcached keeps anything."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_STATUS_CLASS = re.compile(r"[1-5]xx")
_SAFE = ("GET", "HEAD")
_CREDENTIALS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "api_key", "apikey"),
        *("access_token", "token", "client_secret", "password", "secret"),
    }
)
"""Names of headers and query parameters whose values are secrets."""
_PLACED = re.compile(r"\{\w+\}")


def _url(text: str) -> UrlTemplate:
    """Return a template that makes URLs which can be asked for. Raises ValueError."""
    template = UrlTemplate(text)
    for name, value in parse_qsl(urlsplit(text).query):
        if name.lower() in _CREDENTIALS and not _PLACED.search(value):
            msg = f'{name}= holds a secret: say auth = {{type = "query", query = "{name}", key = {{env = "NAME"}}}}'
            raise ValueError(msg)
    try:
        check_url(template.expand(dict.fromkeys(template.names, "x")))
    except (ValidationError, InvalidRequest, Denied) as exc:
        raise ValueError(exc.messages[0] if isinstance(exc, ValidationError) else str(exc)) from None
    return template


def _check_name(name: str) -> None:
    """Raise ValidationError for what is no header's name."""
    if not HEADER_NAME.fullmatch(name):
        _refuse(f"{name[:60]!r} is not a header name (RFC 9110, section 5.1)")


def _plain_url(text: str) -> str:
    template = _url(text)
    if template.names:
        msg = "takes no parameters"
        raise ValueError(msg)
    return template.text


def _json(value: Any) -> Any:
    """Return a value that JSON has too: TOML also has dates, nan and inf. Raises ValueError."""
    try:
        strictjson.dumps(value)
    except TypeError:
        msg = "holds a date or time, which JSON has not: write it as a string"
        raise ValueError(msg) from None
    return value


class _Built(fields.Field[Any]):
    """A string, or any value, made into something by a function that raises ValueError for a wrong one."""

    def __init__(self, make: Any, kinds: type | tuple[type, ...] = str, **options: Any) -> None:
        super().__init__(**options)
        self._make = make
        self._kinds = kinds

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Any:  # noqa: ARG002  marshmallow's signature
        if not isinstance(value, self._kinds) or isinstance(value, bool):
            _refuse(f"cannot be {kind(value)}")
        try:
            return self._make(value)
        except (ValueError, re.error, OverflowError) as exc:
            return _refuse(str(exc))
        except RecursionError:
            return _refuse("nests too deep")


class _Statuses(fields.Field[frozenset[int]]):
    """Statuses and classes of them: `[200, 404]`, `["2xx"]`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> frozenset[int]:  # noqa: ARG002
        statuses: set[int] = set()
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and _STATUS_CLASS.fullmatch(each):
                statuses.update(range(int(each[0]) * 100, int(each[0]) * 100 + 100))
            elif isinstance(each, int) and not isinstance(each, bool) and 200 <= each <= 599:  # noqa: PLR2004  final ones
                statuses.add(each)
            else:
                _refuse(f"{each!r} is no status: give 200 to 599, or a class such as '2xx'")
        return frozenset(statuses)


class _SecretField(fields.Field[Secret]):
    """Where a secret is: `{env = "NAME"}` or `{file = "/path"}`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Secret:  # noqa: ARG002
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
            _refuse_secret()
        [(where, name)] = value.items()
        if not isinstance(name, str) or not name:
            _refuse(f"{where} must be a name")
        return Secret(where, name)


def _number(minimum: float, maximum: float | None = None, *, whole: bool = False) -> Any:
    within = validate.Range(minimum, maximum)
    return fields.Integer(strict=True, validate=within) if whole else Seconds(validate=within)


def _positive(maximum: float | None = None) -> Seconds:
    return Seconds(validate=validate.Range(0, maximum, min_inclusive=False))


class _Rate(Seconds):
    what = "a number of requests a second"


class LimitsSchema(StrictSchema):
    """`[hosts."example.com"]`, and a part of a source."""

    concurrency = _number(1, whole=True)
    rate = _Rate(validate=validate.Range(0, min_inclusive=False))
    burst = _number(1, whole=True)
    waiting = _number(1, whole=True)

    @post_load
    def _limits(self, data: dict[str, Any], **_: Any) -> Limits:
        if "burst" in data and "rate" not in data:
            _refuse("goes with a rate", "burst")
        return Limits(**data)


class _SourceLimitsSchema(LimitsSchema):
    per = fields.String(validate=validate.OneOf(("host", "source")))


class _RetrySchema(StrictSchema):
    statuses = _Statuses()
    attempts = _number(1, MAX_ATTEMPTS, whole=True)
    first_pause = _number(0, MAX_TIMEOUT)
    longest_pause = _number(0, MAX_TIMEOUT)
    unsafe = fields.Boolean(truthy={True}, falsy={False})

    @post_load
    def _retries(self, data: dict[str, Any], **_: Any) -> Retries:
        return Retries(**data)


class _NegativeTtl(fields.Field[dict[str, float]]):
    """Seconds for every kind of failure, or a table of them by kind."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> dict[str, float]:  # noqa: ARG002
        seconds = Seconds(validate=validate.Range(0, MAX_TTL))
        table = value if isinstance(value, dict) else dict.fromkeys(NEGATIVE_KINDS, value)
        unknown = sorted(set(table) - set(NEGATIVE_KINDS))
        if unknown:
            _refuse(f"no kind of failure: {', '.join(unknown)}; known: {', '.join(NEGATIVE_KINDS)}")
        return {name: seconds.deserialize(each) or 0.0 for name, each in table.items()}


class _CacheSchema(StrictSchema):
    ttl = _number(0, MAX_TTL)
    stale_while_revalidate = _number(0, MAX_TTL)
    stale_if_error = _number(0, MAX_TTL)
    refresh_ahead = fields.Boolean(truthy={True}, falsy={False})
    negative_ttl = _NegativeTtl()
    coalesce = fields.Boolean(truthy={True}, falsy={False})

    @post_load
    def _policy(self, data: dict[str, Any], **_: Any) -> CachePolicy:
        return CachePolicy(**data, methods_too="ttl" in data)


class _ParamSchema(StrictSchema):
    default = fields.Raw()
    pattern = _Built(re.compile)
    one_of = fields.List(fields.Raw(), validate=validate.Length(1))

    @post_load
    def _param(self, data: dict[str, Any], **_: Any) -> Param:
        param = Param(**(data | {"one_of": tuple(data.get("one_of", ()))}))
        if "default" in data:
            try:
                as_text("default", _json(data["default"]))
                param.check("default", data["default"])
            except (ValueError, InvalidRequest) as exc:
                _refuse(str(exc).removeprefix("params.default: "), "default")
        return param


class _BasicSchema(StrictSchema):
    username = fields.String(required=True, validate=validate.ContainsNoneOf(":"))
    password = _SecretField(required=True)


class _BearerSchema(StrictSchema):
    token = _SecretField(required=True)


class _HeaderKeySchema(StrictSchema):
    header = fields.String(required=True)
    key = _SecretField(required=True)

    @post_load
    def _key(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        check_headers({data["header"]: "x"})
        return {"place": "header", "name": data["header"], "key": data["key"]}


class _QueryKeySchema(StrictSchema):
    query = fields.String(required=True, validate=validate.Length(1, 64))
    key = _SecretField(required=True)

    @post_load
    def _key(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"place": "query", "name": data["query"], "key": data["key"]}


class _OAuthSchema(StrictSchema):
    token_url = _Built(_plain_url, required=True)
    client_id = fields.String(required=True, validate=validate.Length(1))
    client_secret = _SecretField(required=True)
    scope = fields.String()
    audience = fields.String()
    place = fields.String(validate=validate.OneOf(("header", "body")))


AUTHS: dict[str, tuple[StrictSchema, type[Any]]] = {
    "basic": (_BasicSchema(), Basic),
    "bearer": (_BearerSchema(), Bearer),
    "header": (_HeaderKeySchema(), ApiKey),
    "query": (_QueryKeySchema(), ApiKey),
    "client_credentials": (_OAuthSchema(), ClientCredentials),
}
"""The kinds of `auth`, by the value of its `type`."""


class _AuthField(fields.Field[Any]):
    """`{type = "bearer", token = {env = "TOKEN"}}` and the like."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Auth | None:  # noqa: ARG002
        if not isinstance(value, dict):
            _refuse(f"must be a table, not {kind(value)}")
        members = dict(value)
        name = members.pop("type", None)
        if name == "none" and not members:
            return None
        if not isinstance(name, str) or name not in AUTHS:
            _refuse(f"must be one of none, {', '.join(AUTHS)}", "type")
        schema, cls = AUTHS[name]
        made: Auth = cls(**schema.load(members))
        return made


class _TlsSchema(StrictSchema):
    ca = fields.String(validate=validate.Length(1))
    cert = fields.String(validate=validate.Length(1))
    key = fields.String(validate=validate.Length(1))
    key_password = _SecretField()

    @post_load
    def _tls(self, data: dict[str, Any], **_: Any) -> Tls:
        if "cert" not in data and data.keys() & {"key", "key_password"}:
            _refuse("missing: a key is of no use without its certificate", "cert")
        return Tls(**data)


class _JsonChecks(Checks):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[Call, ...]:
        calls = super()._deserialize(value, attr, data, **options)
        try:
            _json([call.args for call in calls])
        except ValueError as exc:
            _refuse(str(exc))
        return calls


class _HeadersField(fields.Field[dict[str, Any]]):
    """Header values: templates, or where a secret is."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> dict[str, Any]:  # noqa: ARG002
        if not isinstance(value, dict):
            _refuse(f"must be a table, not {kind(value)}")
        text, secret = _Built(HeaderTemplate), _SecretField()
        loaded: dict[str, Any] = {}
        wrong: dict[str, Any] = {}
        for name, each in value.items():
            try:
                loaded[name] = (text if isinstance(each, str) else secret).deserialize(each)
                check_headers({name: each if isinstance(each, str) else "x"})
                if isinstance(each, str) and name.lower() in _CREDENTIALS:
                    _refuse_secret()
            except ValidationError as exc:
                wrong[name] = exc.messages
        if wrong:
            raise ValidationError(wrong)
        check_headers(dict.fromkeys(value, "x"))  # how many, and none twice
        return loaded


class SourceSchema(StrictSchema):
    """`[sources.name]`. The schemas and checks that it names must be registered: load the plugins first."""

    url = _Built(_url)
    call = Text(lambda text: None if CALL.fullmatch(text) else _refuse("must be 'package.module:function'"))
    method = Text(check_method)
    headers = _HeadersField()
    body = _Built(lambda value: JsonTemplate(_json(value)), (dict, list))
    form = fields.Dict(keys=fields.String(), values=_Built(Template), validate=validate.Length(1))
    params = fields.Dict(keys=Text(lambda name: None if _NAME.fullmatch(name) else _refuse("is no parameter's name")),
                         values=fields.Nested(_ParamSchema))  # fmt: skip
    schema = Text(documents.check_known)
    checks = _JsonChecks()
    success = _Statuses(validate=validate.Length(1))
    response_headers = fields.List(Text(_check_name), validate=validate.Length(1, MAX_RESPONSE_HEADERS))
    redirects = _number(0, MAX_REDIRECTS, whole=True)
    retry = fields.Nested(_RetrySchema)
    timeout = _positive(MAX_TIMEOUT)
    connect_timeout = _positive(MAX_TIMEOUT)
    read_timeout = _positive(MAX_TIMEOUT)
    max_bytes = _number(1, whole=True)
    limits = fields.Nested(_SourceLimitsSchema)
    cache = fields.Nested(_CacheSchema)
    auth = _AuthField()
    tls = fields.Nested(_TlsSchema)
    proxy = _Built(_plain_url)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _conflicts(self, _: dict[str, Any], original: Any, **__: Any) -> None:
        """Look at what stands there, also where one of it is wrong by itself: all is told at once."""
        wrong = _conflicts(original) if isinstance(original, dict) else {}
        if wrong:
            raise ValidationError(wrong)

    @validates_schema
    def _params(self, data: dict[str, Any], **_: Any) -> None:
        """A parameter that nothing uses is a misspelt one: the real one would go unchecked."""
        used = _source_of(data).names_used()
        unused = [name for name in data.get("params", {}) if name not in used and "call" not in data]
        if unused:
            raise ValidationError({"params": {name: ["is used nowhere"] for name in unused}})

    @post_load
    def _source(self, data: dict[str, Any], **_: Any) -> Source:
        return _source_of(data)


def _source_of(data: dict[str, Any]) -> Source:
    members = dict(data)
    members["response_headers"] = tuple(dict.fromkeys(map(str.lower, data.get("response_headers", ()))))
    headers = members.pop("headers", {})
    members["headers"] = {name: each for name, each in headers.items() if isinstance(each, Template)}
    members["secret_headers"] = {name: each for name, each in headers.items() if isinstance(each, Secret)}
    return Source("", **members)


_HTTP_ONLY = (
    *("method", "headers", "body", "form", "success", "response_headers", "redirects", "connect_timeout"),
    *("read_timeout", "auth", "tls", "proxy"),
)


def _conflicts(data: dict[str, Any]) -> dict[str, list[str]]:
    """Say which members do not go together, by member."""
    wrong: dict[str, list[str]] = {}
    if ("url" in data) == ("call" in data):
        wrong["url"] = ["not with call: give one of them" if "url" in data else "missing: give a url or a call"]
    if "call" in data:
        wrong |= {name: ["is of no use with call"] for name in _HTTP_ONLY if name in data}
    if "body" in data and "form" in data:
        wrong["form"] = ["not with body: give one of them"]
    if data.get("method", "GET") in _SAFE and ("body" in data or "form" in data):
        wrong["method"] = ["a body goes with POST, PUT or PATCH"]
    return wrong


def _refuse_secret() -> Any:
    return _refuse('a secret does not stand here: say {env = "NAME"} or {file = "/path"}')


def _refuse(reason: str, field: str = "_schema") -> Any:
    raise ValidationError(reason, field)
