"""Fields of sources.toml's schemas: what a value may be, and what is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from marshmallow import ValidationError, fields, validate

from models import strictjson
from models.checks import Call
from models.errors import Denied, InvalidRequest
from models.headers import check_headers
from models.request import Checks
from models.retry_later import MAX_DELAYS, RetryLater, parse_delay
from models.schema import Seconds, kind, refuse
from models.source import NEGATIVE_KINDS, Secret
from models.template import HeaderTemplate, UrlTemplate
from models.url import check_url

MAX_TTL = 30 * 86_400.0
"""Seconds that a source may have answers fresh: 30 days, as long as memcached keeps anything."""
_STATUS_CLASS = re.compile(r"[1-5]xx")
_CREDENTIALS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "api_key", "apikey"),
        *("access_token", "token", "client_secret", "password", "secret"),
    }
)
"""Names of headers and query parameters whose values are secrets."""
_PLACED = re.compile(r"\{\w+\}")


def template_of(text: str) -> UrlTemplate:
    """Return a template of valid URLs. Raises ValueError."""
    template = UrlTemplate(text)
    for name, value in parse_qsl(urlsplit(text).query):
        if name.lower() in _CREDENTIALS and not _PLACED.search(value):
            msg = f'{name}= holds a secret: set auth = {{type = "query", query = "{name}", key = {{env = "NAME"}}}}'
            raise ValueError(msg)
    try:
        check_url(template.expand(dict.fromkeys(template.names, "x")))
    except (ValidationError, InvalidRequest, Denied) as exc:
        raise ValueError(exc.messages[0] if isinstance(exc, ValidationError) else str(exc)) from None
    return template


def plain_url(text: str) -> str:
    """Return a URL that takes no parameters. Raises ValueError."""
    template = template_of(text)
    if template.names:
        msg = "takes no parameters"
        raise ValueError(msg)
    return template.text


def json_value(value: Any) -> Any:
    """Return a value that JSON has too: TOML also has dates, nan and inf. Raises ValueError."""
    try:
        strictjson.dumps(value)
    except TypeError:
        msg = "holds a date or time, which JSON does not have: write it as a string"
        raise ValueError(msg) from None
    return value


class Built(fields.Field[Any]):
    """A value of some kinds, made into something by a function, which raises ValueError or ValidationError.

    With `None` for kinds the function gets any value.
    """

    def __init__(self, make: Callable[[Any], Any], kinds: type | tuple[type, ...] | None = str, **options: Any) -> None:
        super().__init__(**options)
        self._make = make
        self._kinds = kinds

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Any:  # noqa: ARG002  marshmallow's signature
        if self._kinds is not None and (not isinstance(value, self._kinds) or isinstance(value, bool)):
            refuse(f"cannot be {kind(value)}")
        try:
            return self._make(value)
        except (ValueError, re.error, OverflowError) as exc:
            return refuse(str(exc))
        except RecursionError:
            return refuse("nests too deep")


def statuses_of(value: Any) -> frozenset[int]:
    """Return statuses, given as such and as classes: `[200, 404]`, `["2xx"]`."""
    statuses: set[int] = set()
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and _STATUS_CLASS.fullmatch(each):
            statuses.update(range(int(each[0]) * 100, int(each[0]) * 100 + 100))
        elif isinstance(each, int) and not isinstance(each, bool) and 200 <= each <= 599:  # noqa: PLR2004  final ones
            statuses.add(each)
        else:
            refuse(f"{each!r} is not a status: give 200 to 599, or a class such as '2xx'")
    return frozenset(statuses)


def secret_of(value: Any) -> Secret:
    """Return where a secret is: `{env = "NAME"}` or `{file = "/path"}`."""
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
        _refuse_secret()
    [(where, name)] = value.items()
    if not isinstance(name, str) or not name:
        refuse(f"{where} must be a name")
    return Secret(where, name)


def number(minimum: float, maximum: float | None = None, *, whole: bool = False) -> Any:
    """Return the field of a number within bounds: seconds, or a `whole` number."""
    within = validate.Range(minimum, maximum)
    return fields.Integer(strict=True, validate=within) if whole else Seconds(validate=within)


def positive(maximum: float | None = None) -> Seconds:
    """Return the field of more than 0 seconds."""
    return Seconds(validate=validate.Range(0, maximum, min_inclusive=False))


class Flag(fields.Boolean):
    """`true` or `false`, and nothing that stands for it; 1 and 0 are equal to them in Python."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bool:  # noqa: ARG002  marshmallow's signature
        if not isinstance(value, bool):
            raise self.make_error(key="invalid", input=value)
        return value


def negative_ttl_of(value: Any) -> dict[str, float]:
    """Return seconds by kind of failure, given for every kind or as a table of them."""
    seconds = Seconds(validate=validate.Range(0, MAX_TTL))
    table = value if isinstance(value, dict) else dict.fromkeys(NEGATIVE_KINDS, value)
    unknown = sorted(set(table) - set(NEGATIVE_KINDS))
    if unknown:
        refuse(f"unknown kind of failure: {', '.join(unknown)}; known: {', '.join(NEGATIVE_KINDS)}")
    return {name: seconds.deserialize(each) or 0.0 for name, each in table.items()}


def delays_field() -> Any:
    """Return the field `retry_later`: delays such as `["1m", "10m"]`, one a try."""
    return fields.List(Built(parse_delay), validate=validate.Length(1, MAX_DELAYS))


def take_later(data: dict[str, Any]) -> RetryLater:
    """Take `retry_later` and `interim_results` out of what was loaded. Raises ValidationError."""
    delays, interim = data.pop("retry_later", ()), data.pop("interim_results", None)
    if interim is not None and not delays:
        refuse("goes with retry_later", "interim_results")
    return RetryLater(tuple(delays), interim or False)


class JsonChecks(Checks):
    """Checks whose arguments JSON has too."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[Call, ...]:
        calls = super()._deserialize(value, attr, data, **options)
        try:
            json_value([call.args for call in calls])
        except ValueError as exc:
            refuse(str(exc))
        return calls


def headers_of(value: Any) -> dict[str, Any]:
    """Return header values: templates, or where a secret is."""
    if not isinstance(value, dict):
        refuse(f"must be a table, not {kind(value)}")
    text, secret = Built(HeaderTemplate), Built(secret_of, None)
    loaded: dict[str, Any] = {}
    wrong: dict[str, Any] = {}
    for name, each in value.items():
        try:
            if isinstance(each, int | float):  # a boolean is one, too
                refuse(f"must be a string, not {kind(each)}: write it in quotes")
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


def _refuse_secret() -> Any:
    return refuse('a secret must not be written here: give {env = "NAME"} or {file = "/path"}')
