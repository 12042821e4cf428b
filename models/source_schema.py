"""The form of sources.toml, as marshmallow schemas: what may stand in it, and the Source that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from models import documents
from models.batch import MAX_SIZE, MAX_WAIT, Batch
from models.errors import InvalidRequest
from models.expression import WHOLE, document_expression
from models.headers import HEADER_NAME, check_headers, check_method
from models.pages import MAX_LIMIT, Pages
from models.request import MAX_TIMEOUT
from models.schema import Seconds, StrictSchema, Text, kind, refuse
from models.source import (
    DEFAULT_THREADS,
    MAX_REDIRECTS,
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
from models.source_fields import (
    MAX_TTL,
    Built,
    Flag,
    JsonChecks,
    delays_field,
    headers_of,
    json_value,
    negative_ttl_of,
    number,
    plain_url,
    positive,
    secret_of,
    statuses_of,
    take_later,
    template_of,
)
from models.template import JsonTemplate, Template, as_text

CALL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A plugin's function: `package.module:function`."""
MAX_ATTEMPTS = 20
"""Tries that a source may ask for."""
MAX_RESPONSE_HEADERS = 50
"""Headers of an answer that a source may have results carry."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SAFE = ("GET", "HEAD")


def _check_name(name: str) -> None:
    """Raise ValidationError for what is no header's name."""
    if not HEADER_NAME.fullmatch(name):
        refuse(f"{name[:60]!r} is not a header name (RFC 9110, section 5.1)")


class _Rate(Seconds):
    what = "a number of requests a second"


class LimitsSchema(StrictSchema):
    """`[hosts."example.com"]`, and a part of a source."""

    concurrency = number(1, whole=True)
    rate = _Rate(validate=validate.Range(0, min_inclusive=False))
    burst = number(1, whole=True)
    waiting = number(1, whole=True)
    shared = Flag()

    @post_load
    def _limits(self, data: dict[str, Any], **_: Any) -> Limits:
        for name in ("burst", "shared"):
            if data.get(name) and "rate" not in data:
                refuse("goes with a rate", name)
        return Limits(**data)


class _SourceLimitsSchema(LimitsSchema):
    per = fields.String(validate=validate.OneOf(("host", "source")))


class _RetrySchema(StrictSchema):
    statuses = Built(statuses_of, None)
    attempts = number(1, MAX_ATTEMPTS, whole=True)
    first_pause = number(0, MAX_TIMEOUT)
    longest_pause = number(0, MAX_TIMEOUT)
    unsafe = Flag()

    @post_load
    def _retries(self, data: dict[str, Any], **_: Any) -> Retries:
        return Retries(**data)


class _CacheSchema(StrictSchema):
    ttl = number(0, MAX_TTL)
    stale_while_revalidate = number(0, MAX_TTL)
    stale_if_error = number(0, MAX_TTL)
    refresh_ahead = Flag()
    negative_ttl = Built(negative_ttl_of, None)
    coalesce = Flag()

    @post_load
    def _policy(self, data: dict[str, Any], **_: Any) -> CachePolicy:
        return CachePolicy(**data, methods_too="ttl" in data)


class _BatchSchema(StrictSchema):
    param = fields.String(required=True)
    items = Built(document_expression, load_default=lambda: document_expression(WHOLE))
    key = Built(document_expression)
    size = number(2, MAX_SIZE, whole=True)
    wait = number(0, MAX_WAIT)
    split = Built(statuses_of, None)

    @post_load
    def _batch(self, data: dict[str, Any], **_: Any) -> Batch:
        return Batch(**data)


class _PagesSchema(StrictSchema):
    items = Built(document_expression, load_default=lambda: document_expression(WHOLE))
    next = Built(document_expression)
    link = Flag()
    param = fields.String(validate=validate.Length(1, 64))
    first = number(0, whole=True)
    step = number(1, whole=True)
    limit = number(1, MAX_LIMIT, whole=True)
    truncate = Flag()

    @post_load
    def _pages(self, data: dict[str, Any], **_: Any) -> Pages:
        pages = Pages(**data)
        if pages.link and (pages.next or pages.param):
            refuse("the Link header says where the next page is: not with next or param", "link")
        if pages.next is None and not pages.link and pages.param is None:
            refuse("say where the next page is: next, link = true, or param", "next")
        for name in ("first", "step"):
            if name in data and not pages.counts:
                refuse("goes with a param that counts, without next", name)
        return pages


class _ParamSchema(StrictSchema):
    default = fields.Raw()
    pattern = Built(re.compile)
    one_of = fields.List(fields.Raw(), validate=validate.Length(1))

    @post_load
    def _param(self, data: dict[str, Any], **_: Any) -> Param:
        param = Param(**(data | {"one_of": tuple(data.get("one_of", ()))}))
        if "default" in data:
            try:
                for name, each in _default_values(data["default"]):
                    as_text(name, json_value(each))
                    param.check(name, each)
            except (ValueError, InvalidRequest) as exc:
                refuse(str(exc).removeprefix("params.").removeprefix("default: "), "default")
        return param


def _default_values(default: Any) -> Iterable[tuple[str, Any]]:
    """Yield each value of a default with its place."""
    if isinstance(default, list) and default:
        return ((f"default[{at}]", each) for at, each in enumerate(default))
    return (("default", default),)


class _BasicSchema(StrictSchema):
    username = fields.String(required=True, validate=validate.ContainsNoneOf(":"))
    password = Built(secret_of, None, required=True)


class _BearerSchema(StrictSchema):
    token = Built(secret_of, None, required=True)


class _HeaderKeySchema(StrictSchema):
    header = fields.String(required=True)
    key = Built(secret_of, None, required=True)

    @post_load
    def _key(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        check_headers({data["header"]: "x"})
        return {"place": "header", "name": data["header"], "key": data["key"]}


class _QueryKeySchema(StrictSchema):
    query = fields.String(required=True, validate=validate.Length(1, 64))
    key = Built(secret_of, None, required=True)

    @post_load
    def _key(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"place": "query", "name": data["query"], "key": data["key"]}


class _OAuthSchema(StrictSchema):
    token_url = Built(plain_url, required=True)
    client_id = fields.String(required=True, validate=validate.Length(1))
    client_secret = Built(secret_of, None, required=True)
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


def _auth(value: Any) -> Auth | None:
    """Return what `{type = "bearer", token = {env = "TOKEN"}}` and the like stand for."""
    if not isinstance(value, dict):
        refuse(f"must be a table, not {kind(value)}")
    members = dict(value)
    name = members.pop("type", None)
    if name == "none" and not members:
        return None
    if not isinstance(name, str) or name not in AUTHS:
        refuse(f"must be one of none, {', '.join(AUTHS)}", "type")
    schema, cls = AUTHS[name]
    made: Auth = cls(**schema.load(members))
    return made


class _TlsSchema(StrictSchema):
    ca = fields.String(validate=validate.Length(1))
    cert = fields.String(validate=validate.Length(1))
    key = fields.String(validate=validate.Length(1))
    key_password = Built(secret_of, None)

    @post_load
    def _tls(self, data: dict[str, Any], **_: Any) -> Tls:
        if "cert" not in data and data.keys() & {"key", "key_password"}:
            refuse("missing: a key needs its certificate", "cert")
        return Tls(**data)


class SourceSchema(StrictSchema):
    """`[sources.name]`. The schemas and checks that it names must be registered: load the plugins first."""

    url = Built(template_of)
    call = Text(lambda text: None if CALL.fullmatch(text) else refuse("must be 'package.module:function'"))
    method = Text(check_method)
    headers = Built(headers_of, None)
    body = Built(lambda value: JsonTemplate(json_value(value)), (dict, list))
    form = fields.Dict(keys=fields.String(), values=Built(Template), validate=validate.Length(1))
    params = fields.Dict(keys=Text(lambda name: None if _NAME.fullmatch(name) else refuse("is not a parameter name")),
                         values=fields.Nested(_ParamSchema))  # fmt: skip
    schema = Text(documents.check_known)
    checks = JsonChecks()
    success = Built(statuses_of, None, validate=validate.Length(1))
    response_headers = fields.List(Text(_check_name), validate=validate.Length(1, MAX_RESPONSE_HEADERS))
    redirects = number(0, MAX_REDIRECTS, whole=True)
    retry = fields.Nested(_RetrySchema)
    retry_later = delays_field()
    interim_results = Flag()
    timeout = positive(MAX_TIMEOUT)
    connect_timeout = positive(MAX_TIMEOUT)
    read_timeout = positive(MAX_TIMEOUT)
    max_bytes = number(1, whole=True)
    limits = fields.Nested(_SourceLimitsSchema)
    cache = fields.Nested(_CacheSchema)
    auth = Built(_auth, None)
    tls = fields.Nested(_TlsSchema)
    proxy = Built(plain_url)
    batch = fields.Nested(_BatchSchema)
    pages = fields.Nested(_PagesSchema)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _conflicts(self, _: dict[str, Any], original: Any, **__: Any) -> None:
        """Look at what stands there, also where one of it is wrong by itself: all is reported at once."""
        wrong = _conflicts(original) if isinstance(original, dict) else {}
        if wrong:
            raise ValidationError(wrong)

    @validates_schema
    def _params(self, data: dict[str, Any], **_: Any) -> None:
        """A parameter that nothing uses is a misspelt one: the real one would go unchecked."""
        source = _source_of(data)
        used = source.names_used()
        unused = [name for name in data.get("params", {}) if name not in used and "call" not in data]
        if unused:
            raise ValidationError({"params": {name: ["is used nowhere"] for name in unused}})
        params = {} if "call" in data else data.get("params", {})
        single = [name for name, each in params.items() if isinstance(each.default, list) and name not in source.lists]
        if single:
            raise ValidationError({"params": {name: [f"its default is a list: write {{{name}*}} in the template"]
                                              for name in single}})  # fmt: skip
        if source.batch is not None and (reason := _no_place(source, source.batch.param)):
            raise ValidationError({"batch": {"param": [reason]}})

    @post_load(pass_original=True)
    def _source(self, data: dict[str, Any], original: dict[str, Any], **_: Any) -> Source:
        source = _source_of(data)
        if source.call is not None and source.limits is not None and "concurrency" not in original["limits"]:
            return replace(source, limits=replace(source.limits, concurrency=DEFAULT_THREADS))
        return source


def _source_of(data: dict[str, Any]) -> Source:
    members = dict(data)
    members["later"] = take_later(members)
    members["response_headers"] = tuple(dict.fromkeys(map(str.lower, data.get("response_headers", ()))))
    headers = members.pop("headers", {})
    members["headers"] = {name: each for name, each in headers.items() if isinstance(each, Template)}
    members["secret_headers"] = {name: each for name, each in headers.items() if isinstance(each, Secret)}
    if (batch := data.get("batch")) is not None:
        members |= {name: data[name].joined(batch.param) for name in ("url", "body") if name in data}
        members["form"] = {name: each.joined(batch.param) for name, each in data.get("form", {}).items()}
    return Source("", **members)


def _no_place(source: Source, name: str) -> str | None:
    """Return why the keys of a batch cannot be sent by this parameter, None if they can."""
    if any(name in header.names for header in source.headers.values()):
        return f"{{{name}}} is in a header, which takes no list"
    if source.call is None and name not in source.names_used():
        return f"no template has {{{name}}}"
    return None


_HTTP_ONLY = (
    *("method", "headers", "body", "form", "success", "response_headers", "redirects", "connect_timeout"),
    *("read_timeout", "auth", "tls", "proxy", "pages"),
)


def _conflicts(data: dict[str, Any]) -> dict[str, list[str]]:
    """Say which members do not go together, by member."""
    wrong: dict[str, list[str]] = {}
    if ("url" in data) == ("call" in data):
        wrong["url"] = ["not with call: give one of them" if "url" in data else "missing: give a url or a call"]
    if "call" in data:
        wrong |= {name: ["not allowed with call"] for name in _HTTP_ONLY if name in data}
    if "body" in data and "form" in data:
        wrong["form"] = ["not with body: give one of them"]
    if "batch" in data and "pages" in data:
        wrong["pages"] = ["not with batch: give one of them"]
    if data.get("method", "GET") in _SAFE and ("body" in data or "form" in data):
        wrong["method"] = ["a body goes with POST, PUT or PATCH"]
    return wrong
