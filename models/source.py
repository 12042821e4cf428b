"""A source: a named upstream of sources.toml, and what a request for it becomes.

The producer gives a name and parameters; the operator says here what is sent, with which credentials, how often,
and how long answers are kept. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from marshmallow import ValidationError

from models import strictjson
from models.batch import Batch
from models.checks import Call
from models.errors import RETRYABLE_STATUSES, InvalidRequest, SettingsError
from models.headers import check_headers
from models.pages import Pages
from models.request import Request
from models.retry_later import NEVER, RetryLater
from models.route import Route
from models.template import JsonTemplate, Template, UrlTemplate, as_text, encode_form, list_values, refuse
from models.url import check_url

DEFAULT_TTL = 60.0
"""Seconds that an answer is fresh, and the most that a Cache-Control can make it."""
MAX_STALE = 300.0
"""Seconds past its freshness that an answer may stand in for a failure (RFC 5861, section 4), and the most that an
upstream can have it served while it is asked anew (section 3)."""
NEGATIVE_TTL = 5.0
"""Seconds that a failure is an answer too, unless it or its source says otherwise: that long the upstream is not asked
the same again."""
NEGATIVE_KINDS = ("unreachable", "upstream_error", "not_found", "too_large", "invalid_document")
"""Kinds of failure that are remembered: outcomes, and `not_found` for the statuses 404 and 410, and for a key that the
answer to a batch lacks."""
DEFAULT_THREADS = 8
"""Concurrent calls of a function's source without `concurrency`."""
DEFAULT_CONCURRENCY = 32
"""Requests in flight to one host."""
MAX_REDIRECTS = 20
"""Redirects that a setting may allow."""


class Secret(NamedTuple):
    """Where a secret is: in the environment variable, or in the file, of that name. Never the secret itself."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host or source bears: requests in flight, requests a second (None: any) in bursts of `burst`, and how many
    more may wait for it (None: as many as the worker's settings say). `shared`: the rate is that of all workers.

    `per`: whether a source shares its host's pauses and breaker with all who ask there (`host`), or has its own
    (`source`).
    """

    concurrency: int = DEFAULT_CONCURRENCY
    rate: float | None = None
    burst: int = 1
    waiting: int | None = None
    per: str = "host"
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """Which statuses are tried again, how often in all, and the upper bounds of the pauses between: of the first, which
    doubles from try to try, and of any.

    `unsafe`: also what is not idempotent is sent again, though it may have been received.
    """

    statuses: frozenset[int] = RETRYABLE_STATUSES
    attempts: int = 4
    first_pause: float = 0.2
    longest_pause: float = 10.0
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long answers may be used.

    `stale_while_revalidate` and `stale_if_error`: what holds where the upstream says nothing, and the most that it
    can say; None: 0 and 300 s for the first, 300 s for both of the second. `refresh_ahead`: an answer that is asked
    for often is fetched anew shortly before it ends. `negative_ttl`, by kind of failure: what holds where the upstream
    says nothing, and the most that it can say; of kinds that are not there, MILLRACE_NEGATIVE_TTL and `ttl` say so.
    `methods_too`: also answers to methods that are not safe. `coalesce`: who asks at the same time gets one answer,
    even one that the upstream lets nobody else have.
    """

    ttl: float = DEFAULT_TTL
    stale_while_revalidate: float | None = None
    stale_if_error: float | None = None
    refresh_ahead: bool = True
    negative_ttl: Mapping[str, float] = field(default_factory=dict)
    methods_too: bool = False
    coalesce: bool = False

    @property
    def longest(self) -> float:
        """Return the seconds that an answer may be used at most, fresh or stale, without its upstream being asked."""
        windows = self.stale_while_revalidate, self.stale_if_error
        return self.ttl + max(MAX_STALE if window is None else window for window in windows)


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic (RFC 7617)."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Bearer:
    """A bearer token (RFC 6750)."""

    token: Secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in the header or query parameter `name`; `place` is `header` or `query`."""

    place: str
    name: str
    key: Secret


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """OAuth 2 client credentials (RFC 6749, section 4.4). `place`: whether id and secret go as `header` or `body`."""

    token_url: str
    client_id: str
    client_secret: Secret
    scope: str | None = None
    audience: str | None = None
    place: str = "header"


Auth: TypeAlias = Basic | Bearer | ApiKey | ClientCredentials


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: who is trusted instead of the usual authorities, and the certificate that is shown."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    key_password: Secret | None = None


REQUIRED: Any = object()
"""The default of a parameter that must be given."""


@dataclass(frozen=True, slots=True)
class Param:
    """What may be given for a parameter."""

    default: Any = REQUIRED
    pattern: re.Pattern[str] | None = None
    one_of: tuple[Any, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether not every value is allowed."""
        return self.pattern is not None or bool(self.one_of)

    def check(self, name: str, value: Any) -> None:
        """Raise InvalidRequest for a value that is not allowed."""
        if self.one_of and not any(_type(value) is _type(each) and value == each for each in self.one_of):
            refuse(name, f"must be one of {', '.join(map(str, self.one_of))}")
        if self.pattern is not None and not self.pattern.fullmatch(as_text(name, value)):
            refuse(name, f"does not match {self.pattern.pattern}")


def _type(value: Any) -> type:
    """Return a value's type; the digits of a number make it no other."""
    return float if isinstance(value, float) else int if isinstance(value, strictjson.NegativeZero) else type(value)


class Filled(NamedTuple):
    """What a source's templates have become."""

    url: str | None
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Source:
    """A named upstream: `url`, or a plugin's function to `call`. See the fields' types for what each says.

    `batch`: many keys are requested in one call; its templates then take a list of them. `pages`: an answer has
    several, which make one document.

    `identity` is a digest of the definition, credentials included: what makes its answers its own.
    """

    name: str
    url: UrlTemplate | None = None
    call: str | None = None
    method: str = "GET"
    headers: Mapping[str, Template] = field(default_factory=dict)
    secret_headers: Mapping[str, Secret] = field(default_factory=dict)
    body: JsonTemplate | None = None
    form: Mapping[str, Template] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)
    schema: str = "json"
    checks: tuple[Call, ...] = ()
    success: frozenset[int] = frozenset(range(200, 300))
    response_headers: tuple[str, ...] = ()
    redirects: int | None = None
    retry: Retries = Retries()
    timeout: float | None = None
    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_bytes: int | None = None
    limits: Limits | None = None
    cache: CachePolicy = CachePolicy()
    auth: Auth | None = None
    tls: Tls | None = None
    proxy: str | None = None
    batch: Batch | None = None
    later: RetryLater = NEVER
    pages: Pages | None = None
    identity: str = ""
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of its parameters."""
    lists: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of the parameters that take lists, `{name*}` in a template. That of a batch takes one key."""
    _sorted: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Collect the names, once for all requests."""
        lists = frozenset[str]().union(*(template.lists for template in self._templates()))
        object.__setattr__(self, "names", self.names_used().union(self.params))
        object.__setattr__(self, "_sorted", tuple(sorted(self.names)))
        object.__setattr__(self, "lists", lists if self.batch is None else lists - {self.batch.param})

    @property
    def is_apart(self) -> bool:
        """Whether it shares its host's places, pauses and breaker with nobody."""
        return self.limits is not None and self.limits.per == "source"

    def names_used(self) -> frozenset[str]:
        """Return the names of the parameters that its templates have places for."""
        return frozenset[str]().union(*(template.names for template in self._templates()))

    def _templates(self) -> list[Template | JsonTemplate]:
        templates = (self.url, self.body, *self.headers.values(), *self.form.values())
        return [template for template in templates if template is not None]

    def expand(self, request: Request) -> Request:
        """Return what to ask for: the request with everything in its place. Raises InvalidRequest."""
        for name in ("method", "headers", "body"):
            if getattr(request, name) != getattr(_EMPTY, name):
                msg = f"{name}: only the source {self.name!r} sets it"
                raise InvalidRequest(msg)
        params = self._given(request.params)
        batch = self.batch
        written = self.filled(params if batch is None else {**params, batch.param: [params[batch.param]]})
        return request._replace(
            url=written.url,
            params=params if self.call or batch else {},
            method=self.method,
            headers=written.headers,
            body=written.body,
            schema=request.schema or self.schema,
            checks=_merge_checks(self.checks, request.checks),
            timeout=request.timeout or self.timeout,
        )

    def filled(self, params: Mapping[str, Any]) -> Filled:
        """Return the templates with values that may be given. Raises InvalidRequest."""
        url = self.url.expand(params) if self.url else None
        if url is not None:
            _checked(check_url, "URL that they make", url)
        body = encode_form(self.form, params) if self.form else self.body.expand(params) if self.body else None
        return Filled(url, self._headers(params), body)

    def _given(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        names = self.names
        for name in params:
            if name not in names:
                known = ", ".join(sorted(names)) or "it takes none"
                refuse(name[:60], f"is not a parameter of the source {self.name!r}; known: {known}")
        values = dict(params)
        for name in self._sorted:
            param = self.params.get(name, _ANY)
            if name not in values:
                if param.default is REQUIRED:
                    refuse(name, f"missing: the source {self.name!r} needs it")
                values[name] = param.default
            if not param.is_limited:
                continue
            if isinstance(values[name], list | strictjson.Raw) and name in self.lists:
                for at, each in enumerate(list_values(name, values[name])):
                    param.check(f"{name}[{at}]", each)
            else:
                param.check(name, values[name])
        if self.batch is not None:
            as_text(self.batch.param, values[self.batch.param])
        return values

    def _headers(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        if not self.headers and not self.form:
            return {}
        headers = {name: value.expand(params) for name, value in self.headers.items()}
        if self.form and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        _checked(check_headers, "headers that they make:", headers)
        return headers


def _merge_checks(always: tuple[Call, ...], asked: tuple[Call, ...]) -> tuple[Call, ...]:
    """Return a source's checks and those of a request that are not among them; 1 and true are not the same."""
    given = {_canonical(call) for call in always}
    return (*always, *(call for call in asked if _canonical(call) not in given)) if always else asked


def _canonical(call: Call) -> bytes:
    return strictjson.canonical([call.name, call.field, call.args])


_ANY = Param()
_EMPTY = Request()


def _checked(check: Callable[[Any], None], what: str, value: Any) -> None:
    try:
        check(value)
    except ValidationError as exc:
        msg = f"params: the {what} {exc.messages[0]}"
        raise InvalidRequest(msg) from None


class Sources:
    """Every source by its name, the limits of hosts that have their own, and the routes that ask sources."""

    def __init__(
        self,
        sources: Mapping[str, Source] | None = None,
        hosts: Mapping[str, Limits] | None = None,
        routes: Mapping[str, Route] | None = None,
    ) -> None:
        self.by_name = dict(sources or {})
        self.hosts = dict(hosts or {})
        self.routes = dict(routes or {})

    @property
    def apart(self) -> frozenset[str]:
        """Return the names of the sources with pauses and breaker of their own: functions too, which have no host."""
        return frozenset(name for name, source in self.by_name.items() if source.is_apart or source.call is not None)

    @property
    def delays(self) -> frozenset[int]:
        """Return the seconds after which any source or route has something tried again later."""
        policies = [source.later for source in self.by_name.values()] + [route.later for route in self.routes.values()]
        return frozenset[int]().union(*(each.delays for each in policies))

    def route(self, name: str) -> Route:
        """Return a route by its name. Raises SettingsError for one that there is not."""
        if name not in self.routes:
            msg = f"no route {name!r}; known: {', '.join(sorted(self.routes)) or 'none'}"
            raise SettingsError(msg)
        return self.routes[name]

    def expand(self, request: Request) -> tuple[Request, Source]:
        """Return what a request for a source asks, and of which. Raises InvalidRequest for a source there is not."""
        source = self.by_name.get(request.source or "")
        if source is None:
            known = ", ".join(sorted(self.by_name)) or "none; MILLRACE_SOURCES names the file that declares them"
            msg = f"source: no source {request.source!r}; known: {known}"
            raise InvalidRequest(msg)
        return source.expand(request), source
