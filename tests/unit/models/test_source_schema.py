from __future__ import annotations

import datetime as dt
import math

import pytest
from marshmallow import ValidationError

from models.checks import Call
from models.schema import flatten
from models.source import (
    NEGATIVE_KINDS,
    ApiKey,
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
from models.source_schema import MAX_TTL, LimitsSchema, SourceSchema

URL = "http://h/{a}"
TOKEN = {"env": "TOKEN"}
OAUTH = {"type": "client_credentials", "token_url": "http://t/x", "client_id": "i", "client_secret": TOKEN}
TODAY = dt.date(2026, 1, 1)


def load(**members) -> Source:
    return SourceSchema().load({"url": URL, **members})


def told(members):
    """Return what is wrong with a source's table; whatever is wrong is a ValidationError."""
    with pytest.raises(ValidationError) as caught:
        SourceSchema().load(members)
    return flatten(caught.value.messages)


def refused(**members):
    return told({"url": URL, **members})


def test_a_url_is_enough():
    """What a table does not say is the default, as in the dataclass."""
    source = load()
    assert source.url.text == URL
    assert source == Source("", url=source.url)
    assert (source.method, source.success, source.schema) == ("GET", frozenset(range(200, 300)), "json")


def test_everything_that_may_be_said_is_taken():
    """A table with everything in it makes a source with everything in its place."""
    source = load(
        method="POST", headers={"X-A": "{a}", "X-Key": TOKEN}, body={"a": "{a}"}, schema="text",
        params={"a": {"default": 1, "pattern": "[0-9]", "one_of": [1, 2]}},
        checks=["is_prime", {"name": "sha256", "field": "f", "args": {}}], success=[200, "3xx"],
        retry={"statuses": ["5xx", 429], "attempts": 20, "first_pause": 0, "longest_pause": 1.5,
               "unsafe": True},
        response_headers=["ETag", "X-Id", "etag"], redirects=20,
        timeout=300, connect_timeout=0.1, read_timeout=2, max_bytes=1,
        limits={"concurrency": 3, "rate": 0.5, "burst": 7, "per": "source"},
        cache={"ttl": 0, "stale_while_revalidate": 1, "stale_if_error": 2, "refresh_ahead": False,
               "negative_ttl": 3},
        auth={"type": "bearer", "token": {"file": "/run/t"}},
        tls={"cert": "c", "key": "k", "key_password": TOKEN, "ca": "a"},
        proxy="http://p:3128",
    )  # fmt: skip
    assert source.headers.keys() == {"X-A"}
    assert source.secret_headers == {"X-Key": Secret("env", "TOKEN")}
    assert source.body.expand({"a": 5}) == {"a": 5}
    assert source.params == {"a": Param(1, source.params["a"].pattern, (1, 2))}
    assert source.params["a"].pattern.pattern == "[0-9]"
    assert source.checks == (Call("is_prime"), Call("sha256", "f", {}))
    assert source.success == {200, *range(300, 400)}
    assert source.retry == Retries(frozenset({429, *range(500, 600)}), 20, 0.0, 1.5, unsafe=True)
    assert (source.response_headers, source.redirects, source.is_apart) == (("etag", "x-id"), 20, True)
    assert (source.timeout, source.connect_timeout, source.read_timeout, source.max_bytes) == (300.0, 0.1, 2.0, 1)
    assert source.limits == Limits(3, 0.5, 7, per="source")
    assert source.cache == CachePolicy(0.0, 1.0, 2.0, False, dict.fromkeys(NEGATIVE_KINDS, 3.0), methods_too=True)
    assert source.auth == Bearer(Secret("file", "/run/t"))
    assert source.tls == Tls("a", "c", "k", Secret("env", "TOKEN"))
    assert (source.method, source.schema, source.proxy) == ("POST", "text", "http://p:3128")


@pytest.mark.parametrize(
    ("table", "auth"),
    [
        ({"type": "none"}, None),
        ({"type": "basic", "username": "u", "password": TOKEN}, Basic("u", Secret("env", "TOKEN"))),
        ({"type": "bearer", "token": TOKEN}, Bearer(Secret("env", "TOKEN"))),
        ({"type": "header", "header": "X-Key", "key": TOKEN}, ApiKey("header", "X-Key", Secret("env", "TOKEN"))),
        ({"type": "query", "query": "key", "key": TOKEN}, ApiKey("query", "key", Secret("env", "TOKEN"))),
        (OAUTH, ClientCredentials("http://t/x", "i", Secret("env", "TOKEN"))),
        (OAUTH | {"scope": "s", "audience": "a", "place": "body"},
         ClientCredentials("http://t/x", "i", Secret("env", "TOKEN"), "s", "a", "body")),
    ],
)  # fmt: skip
def test_each_kind_of_credentials_is_taken(table, auth):
    """Every value of `type` makes its own kind."""
    assert load(auth=table).auth == auth


def test_a_call_takes_the_place_of_a_url():
    """A function with limits, retries, checks, schema and cache is a source too."""
    source = SourceSchema().load({"call": "a.b:c_1", "limits": {"concurrency": 2}, "params": {"x": {}}, "timeout": 1})
    assert (source.url, source.call, source.limits) == (None, "a.b:c_1", Limits(2))


SECRET = 'a secret must not be written here: give {env = "NAME"} or {file = "/path"}'
ORIGIN = "must begin with http:// or https:// and a host, without parameters or credentials in them"
STATUS = "is not a status: give 200 to 599, or a class such as '2xx'"
ATTEMPTS = "Must be greater than or equal to 1 and less than or equal to 20"
TYPE = "auth: must be one of none, basic, bearer, header, query, client_credentials"
KINDS = ", ".join(NEGATIVE_KINDS)
SECONDS = "must be a number of seconds, 0 or more"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "url: missing: give a url or a call"),
        ({"url": URL, "call": "a:b"}, "url: not with call: give one of them"),
        *(({"call": "a:b", name: value}, f"{name}: not allowed with call") for name, value in [
            ("method", "POST"), ("headers", {"A": "b"}), ("success", [200]), ("connect_timeout", 1),
            ("read_timeout", 1), ("auth", {"type": "none"}), ("tls", {}), ("proxy", "http://p"),
            ("response_headers", ["ETag"]), ("redirects", 1)]),
        *(({"call": call}, "call: must be 'package.module:function'")
          for call in ("a", "a.b", "a:b:c", ":b", "a:", "a b:c", "a:b()", "a:b\n")),
        ({"url": URL, "ulr": 1}, "ulr: unknown field"),
        ({"url": 5}, "url: cannot be a number"),
        ({"url": True}, "url: cannot be a boolean"),
        ({"url": "h"}, f"url: {ORIGIN}"),
        ({"url": "http://h/{"}, "url: '{' at character 10 is not a parameter: write {name}, or {{"),
    ],
)  # fmt: skip
def test_what_is_asked_must_be_clear(members, message):
    """A source has one of url and call, each of its form, and nothing that does not go with it."""
    assert message in told(members)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"method": "get"}, "method: must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ({"method": "POST", "body": {}, "form": {"a": "b"}}, "form: not with body: give one of them"),
        ({"body": {}}, "method: a body goes with POST, PUT or PATCH"),
        ({"method": "HEAD", "form": {"a": "b"}}, "method: a body goes with POST, PUT or PATCH"),
        ({"method": "POST", "body": "x"}, "body: cannot be a string"),
        ({"method": "POST", "body": {"a": ["{"]}}, "body: '{' at character 1 is not a parameter: write {name}, or {{"),
        ({"method": "POST", "form": {}}, "form: Shorter than minimum length 1"),
        ({"schema": "nope"}, "schema: unknown schema 'nope'; known: json, page, text"),
        (
            {"checks": ["nope"]},
            "checks.0.name: unknown check 'nope'; known: is_prime, json_schema, length, one_of, range, regex, sha256",
        ),
        ({"success": [99]}, f"success: 99 {STATUS}"),
        ({"success": "6xx"}, f"success: '6xx' {STATUS}"),
        ({"success": [True]}, f"success: True {STATUS}"),
        ({"success": ["2xx\n"]}, f"success: '2xx\\n' {STATUS}"),
        ({"retry": {"attempts": 0}}, f"retry.attempts: {ATTEMPTS}"),
        ({"retry": {"attempts": 21}}, f"retry.attempts: {ATTEMPTS}"),
        ({"retry": {"attempts": 1.5}}, "retry.attempts: Not a valid integer"),
        ({"retry": {"unsafe": "yes"}}, "retry.unsafe: Not a valid boolean"),
        ({"limits": {"per": "key"}}, "limits.per: Must be one of: host, source"),
        ({"limits": {"shared": True}}, "limits.shared: goes with a rate"),
        ({"limits": {"rate": 5, "shared": 1}}, "limits.shared: Not a valid boolean"),
        ({"redirects": 21}, "redirects: Must be greater than or equal to 0 and less than or equal to 20"),
        ({"redirects": -1}, "redirects: Must be greater than or equal to 0 and less than or equal to 20"),
        ({"redirects": True}, "redirects: Not a valid integer"),
        ({"response_headers": []}, "response_headers: Length must be between 1 and 50"),
        ({"response_headers": "ETag"}, "response_headers: Not a valid list"),
        ({"response_headers": ["a b"]}, "response_headers.0: 'a b' is not a header name (RFC 9110, section 5.1)"),
        ({"response_headers": ["X\r\nY"]},
         "response_headers.0: 'X\\r\\nY' is not a header name (RFC 9110, section 5.1)"),
        ({"retry": {"first_pause": -1}}, f"retry.first_pause: {SECONDS}"),
        ({"timeout": 0}, "timeout: Must be greater than 0 and less than or equal to 300.0"),
        ({"timeout": math.inf}, f"timeout: {SECONDS}"),
        ({"timeout": "1"}, "timeout: must be a number of seconds, not a string"),
        ({"read_timeout": 301}, "read_timeout: Must be greater than 0 and less than or equal to 300.0"),
        ({"max_bytes": 0}, "max_bytes: Must be greater than or equal to 1"),
        ({"max_bytes": "8MiB"}, "max_bytes: Not a valid integer"),
        ({"limits": {"concurrency": True}}, "limits.concurrency: Not a valid integer"),
        ({"limits": {"concurrency": 0}}, "limits.concurrency: Must be greater than or equal to 1"),
        ({"limits": {"rate": 0}}, "limits.rate: Must be greater than 0"),
        ({"limits": {"burst": 2}}, "limits.burst: goes with a rate"),
        ({"limits": 5}, "limits: must be a JSON object"),
        ({"cache": {"ttl": MAX_TTL + 1}},
         "cache.ttl: Must be greater than or equal to 0 and less than or equal to 2592000.0"),
        ({"cache": {"refresh_ahead": "yes"}}, "cache.refresh_ahead: Not a valid boolean"),
        ({"cache": {"negative_ttl": {"nope": 1}}},
         f"cache.negative_ttl: unknown kind of failure: nope; known: {KINDS}"),
        ({"cache": {"negative_ttl": {"not_found": -1}}}, f"cache.negative_ttl: {SECONDS}"),
        ({"cache": {"negative_ttl": True}}, "cache.negative_ttl: must be a number of seconds, not a boolean"),
        ({"tls": {"key": "k"}}, "tls.cert: missing: a key needs its certificate"),
        ({"tls": {"key_password": TOKEN}}, "tls.cert: missing: a key needs its certificate"),
        ({"tls": {"cert": ""}}, "tls.cert: Shorter than minimum length 1"),
        ({"tls": {"verify": False}}, "tls.verify: unknown field"),
        ({"proxy": "p:3128"}, f"proxy: {ORIGIN}"),
        ({"params": {"1": {}}}, "params.1.key: is not a parameter name"),
        ({"params": {"a": 5}}, "params.a.value: must be a JSON object"),
        (
            {"url": URL, "params": {"a": {"default": ["x"]}}},
            "params.a: its default is a list: write {a*} in the template",
        ),
        (
            {"params": {"a": {"default": ["x", []]}}},
            "params.a.value.default: default[1]: must be a string, number or boolean, not an array",
        ),
        (
            {"params": {"a": {"default": []}}},
            "params.a.value.default: must be a string, number or boolean, not an array",
        ),
        ({"params": {"a": {"one_of": []}}}, "params.a.value.one_of: Shorter than minimum length 1"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_its_path(members, message):
    """Each key is held to its kind and bounds, and named by its path."""
    assert refused(**members) == [message]


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (5, "auth: must be a table, not a number"),
        ("hunter2", "auth: must be a table, not a string"),
        ({}, TYPE),
        ({"type": "digest"}, TYPE),
        ({"type": "none", "token": TOKEN}, TYPE),
        ({"type": "bearer"}, "auth.token: Missing data for required field"),
        ({"type": "bearer", "token": "hunter2"}, f"auth.token: {SECRET}"),
        ({"type": "bearer", "token": {}}, f"auth.token: {SECRET}"),
        ({"type": "bearer", "token": {"value": "hunter2"}}, f"auth.token: {SECRET}"),
        ({"type": "bearer", "token": {"env": "A", "file": "b"}}, f"auth.token: {SECRET}"),
        ({"type": "bearer", "token": {"env": ""}}, "auth.token: env must be a name"),
        ({"type": "bearer", "token": {"file": 5}}, "auth.token: file must be a name"),
        ({"type": "bearer", "token": TOKEN, "password": "hunter2"}, "auth.password: unknown field"),
        ({"type": "basic", "username": "u", "password": "hunter2"}, f"auth.password: {SECRET}"),
        ({"type": "basic", "username": "a:b", "password": TOKEN},
         "auth.username: One or more of the choices you made was in: :"),
        ({"type": "header", "header": "a b", "key": TOKEN}, "auth: 'a b' is not a header name (RFC 9110, section 5.1)"),
        ({"type": "header", "header": "Host", "key": TOKEN}, "auth: Host is set by the worker itself"),
        ({"type": "query", "query": "", "key": TOKEN}, "auth.query: Length must be between 1 and 64"),
        (OAUTH | {"client_secret": "hunter2"}, f"auth.client_secret: {SECRET}"),
        (OAUTH | {"place": "query"}, "auth.place: Must be one of: header, body"),
        (OAUTH | {"token_url": "http://u:hunter2@t/"},
         f"auth.token_url: {ORIGIN}"),
    ],
)  # fmt: skip
def test_wrong_credentials_are_told_without_them(auth, message):
    """A secret that stands in the file is refused and not repeated, like every other mistake with credentials."""
    assert refused(auth=auth) == [message]
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "headers: must be a table, not an array"),
        ({"a b": "c"}, "headers.a b: 'a b' is not a header name (RFC 9110, section 5.1)"),
        ({"Host": {"env": "T"}}, "headers.Host: Host is set by the worker itself"),
        ({"A": "b", "a": "b"}, "headers: a is given twice"),
        ({"A": "hunter2\r\nB: c"}, "headers.A: A has a value that cannot be sent: visible ASCII only"),
        ({"A": "{"}, "headers.A: '{' at character 1 is not a parameter: write {name}, or {{"),
        ({"A": 5}, "headers.A: must be a string, not a number: write it in quotes"),
        ({"A": {"value": "hunter2"}}, f"headers.A: {SECRET}"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers, message):
    """Names and values of headers are those of a request, or where a secret is; no value is repeated."""
    assert refused(headers=headers) == [message]


def test_limits_of_a_host_are_those_of_a_source():
    """The table of a host takes the same keys, and no others."""
    assert LimitsSchema().load({"rate": 5, "burst": 2}) == Limits(rate=5.0, burst=2)
    assert LimitsSchema().load({"rate": 5, "shared": True}) == Limits(rate=5.0, shared=True)
    for other in ({"url": URL}, {"per": "source"}):
        with pytest.raises(ValidationError):
            LimitsSchema().load(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auth", OAUTH | {"token_url": "http://t/{tenant}"}),
        ("auth", OAUTH | {"token_url": "http://t/../x"}),
        ("auth", {"type": ["bearer"]}),
        ("proxy", "http://p/{a}"),
        ("proxy", "http://p/.."),
        ("params", {"a": {"pattern": "a{99999999999999999999}"}}),
        ("params", {"a": {"pattern": "(" * 3000 + ")" * 3000}}),
    ],
)
def test_no_value_crashes_the_reader(name, value):
    """Whatever stands at a key is taken or told as a problem at that key."""
    assert refused(**{name: value})[0].startswith(f"{name}")


@pytest.mark.parametrize(
    "members",
    [
        *({"url": url} for url in ("http://h:99999/", "http://h:0/", "http://h/a b", "http://[/x", "http://h/../x")),
        *({"url": URL, "params": {"a": {"default": each}}} for each in (TODAY, math.nan)),
        {"url": URL, "params": {"a": {"default": "z", "one_of": ["a"]}}},
        {"url": URL, "params": {"a": {"default": "z", "pattern": "[a-y]"}}},
        *({"url": URL, "method": "POST", "body": {"x": each}} for each in (TODAY, math.nan)),
        *({"url": URL, "checks": [{"name": "is_prime", "args": {"x": each}}]} for each in (TODAY, math.inf)),
        {"url": URL, "params": {"typo": {"pattern": "[0-9]"}}},
        {"url": URL, "success": []},
    ],
)
def test_what_can_never_work_is_refused(members):
    """A definition under which no request can end well stops the start."""
    assert told(members)


def test_every_problem_of_a_source_is_told_at_once():
    """A wrong value hides neither a missing URL nor what does not go together."""
    assert {line.partition(":")[0] for line in told({"timeout": -1, "ulr": URL})} == {"timeout", "ulr", "url"}


@pytest.mark.parametrize(
    "members",
    [
        {"headers": {"Authorization": "Bearer hunter2"}},
        {"headers": {"x-api-key": "hunter2"}},
        {"headers": {"Cookie": "session=hunter2"}},
        {"url": "http://h/?api_key=hunter2"},
        {"url": "http://h/?a=1&Access_Token=hunter2"},
    ],
)
def test_a_secret_that_stands_in_the_file_is_refused(members):
    """Where credentials go by their name, a literal one is refused and not repeated."""
    [line] = told({"url": URL} | members)
    assert "secret" in line
    assert "hunter2" not in line


def test_a_parameter_may_be_called_a_token():
    """A place in the query is no literal: a page's token is the producer's to give."""
    assert load(url="http://h/?token={token}").names == {"token"}


BATCH = {"param": "a", "items": "rows", "key": "id"}


def test_a_batch_has_defaults_and_takes_single_keys():
    """Its parameter is no list for those who ask, whatever its template calls it."""
    source = load(batch={"param": "a"})
    assert (source.batch.size, source.batch.wait, source.batch.items.text, source.batch.key) == (50, 0.01, "@", None)
    assert source.batch.split == {400, 413, 414}
    assert load(url="http://h/?a={a*}", batch=BATCH).lists == frozenset()
    assert load(batch={**BATCH, "split": ["4xx"]}).batch.split == frozenset(range(400, 500))


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ({"batch": {}}, "batch.param: Missing data for required field"),
        ({"batch": {"param": "b"}}, "batch.param: no template has {b}"),
        ({"batch": BATCH, "headers": {"X-A": "{a}"}}, "batch.param: {a} is in a header, which takes no list"),
        ({"batch": {**BATCH, "items": "a["}}, "batch.items: is not a JMESPath expression"),
        ({"batch": {**BATCH, "key": "nope(@)"}}, "batch.key: is not a JMESPath expression: no function nope()"),
        ({"batch": {**BATCH, "size": 1}}, "batch.size: Must be greater than or equal to 2"),
        ({"batch": {**BATCH, "size": 1001}}, "batch.size: Must be greater than or equal to 2"),
        ({"batch": {**BATCH, "wait": 11}}, "batch.wait: Must be greater than or equal to 0"),
        ({"batch": {**BATCH, "split": [7]}}, "batch.split: 7 is not a status"),
        ({"batch": {**BATCH, "more": 1}}, "batch.more: "),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(members, wrong):
    """Each problem by its key."""
    assert any(each.startswith(wrong) for each in refused(**members)), refused(**members)


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ({"pages": {}}, "pages.next: say where the next page is: next, link = true, or param"),
        ({"pages": {"link": False}}, "pages.next: say where the next page is: next, link = true, or param"),
        ({"pages": {"link": True, "next": "n"}},
         "pages.link: the Link header says where the next page is: not with next or param"),
        ({"pages": {"next": "n", "first": 1}}, "pages.first: goes with a param that counts, without next"),
        ({"pages": {"next": "n", "param": "c", "step": 2}}, "pages.step: goes with a param that counts, without next"),
        ({"pages": {"param": "p", "first": -1}}, "pages.first: Must be greater than or equal to 0"),
        ({"pages": {"param": "p", "step": 0}}, "pages.step: Must be greater than or equal to 1"),
        ({"pages": {"param": "p", "limit": 1001}}, "pages.limit: Must be greater than or equal to 1"),
        ({"pages": {"param": ""}}, "pages.param: Length must be between 1 and 64"),
        ({"pages": {"next": "n["}}, "pages.next: is not a JMESPath expression"),
        ({"pages": {"param": "p", "items": "]"}}, "pages.items: is not a JMESPath expression"),
        ({"pages": {"param": "p"}, "batch": BATCH}, "pages: not with batch: give one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_pages_is_named(members, wrong):
    """Each problem by its key."""
    assert any(each.startswith(wrong) for each in refused(**members)), refused(**members)


def test_pages_go_with_http_only():
    """A function returns its whole answer."""
    assert "pages: not allowed with call" in told({"call": "m:f", "pages": {"link": True}})
