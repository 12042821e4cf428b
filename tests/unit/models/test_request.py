from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import request as requests
from models import strictjson
from models.checks import Call
from models.checks.builtin import _pattern
from models.errors import Denied, InvalidRequest
from models.headers import CONNECTION_HEADERS
from models.request import MAX_BYTES, MAX_PATTERNS, SOURCE_SCHEMA, Request, RequestSchema
from models.url import MAX_URL
from tests.turns import allowed, least

URL = "http://example.org/"


def refusal(members):
    """Return what a producer is told about a request, read from bytes as a worker does."""
    with pytest.raises(InvalidRequest) as caught:
        requests.parse(json.dumps(members).encode())
    return str(caught.value)


def test_the_least_request_gets_the_defaults():
    """A URL alone is a GET without headers and body, loaded as JSON, without checks, wishes or id."""
    request_id, request = requests.parse(b'{"url":"http://example.org/"}')
    assert request_id is None
    assert request == Request(
        url=URL, source=None, params={}, method="GET", headers={}, body=None, schema="json", checks=(),
        max_age=None, timeout=None,
    )  # fmt: skip


def test_every_field_is_taken():
    """A request that names everything is read with everything in its place."""
    members = {
        "id": "a-1",
        "url": "https://example.org:8443/a?b=c",
        "method": "POST",
        "headers": {"Accept": "application/json", "X-Tab": "a\tb"},
        "body": {"n": [1, None]},
        "schema": "text",
        "checks": ["is_prime", {"name": "json_schema", "field": "a.b", "args": {"schema": {}}}],
        "max_age": 0,
        "timeout": 2.5,
    }
    assert requests.parse(json.dumps(members).encode()) == (
        "a-1",
        Request(
            url="https://example.org:8443/a?b=c",
            method="POST",
            headers={"Accept": "application/json", "X-Tab": "a\tb"},
            body={"n": [1, None]},
            schema="text",
            checks=(Call("is_prime"), Call("json_schema", "a.b", {"schema": {}})),
            max_age=0.0,
            timeout=2.5,
        ),
    )


def test_a_source_takes_the_place_of_a_url():
    """A named source with its params is a request too; its schema is the source's own, which no request can name."""
    request = requests.load({"source": "quotes", "params": {"symbol": "A", "n": 1}})[1]
    assert request == Request(source="quotes", params={"symbol": "A", "n": 1}, schema=SOURCE_SCHEMA)
    assert "schema: unknown schema ''" in refusal({"source": "quotes", "schema": SOURCE_SCHEMA})


def test_a_request_for_a_source_may_name_what_any_may():
    """Id, schema, checks, age and deadline of a request for a source are kept."""
    members = {"id": "a", "source": "s", "schema": "text", "checks": ["is_prime"], "max_age": 1, "timeout": 2}
    asked = Request(source="s", schema="text", checks=(Call("is_prime"),), max_age=1.0, timeout=2.0)
    assert requests.parse(json.dumps(members).encode()) == ("a", asked)


@pytest.mark.parametrize("members", [{"method": "POST"}, {"headers": {"A": "b"}}, {"body": 0}])
def test_what_a_source_says_is_left_for_it_to_refuse(members):
    """Method, headers and body of a request for a source are read, so that the source can say that they are its own."""
    [(name, value)] = members.items()
    assert getattr(requests.load({"source": "s", **members})[1], name) == value


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", "a/../b\r\n", ["x"], {"a": [None]}])
def test_a_parameter_is_any_json_value(value):
    """What a source makes of a value is for the source to say."""
    taken = requests.parse(json.dumps({"source": "s", "params": {"p": value, "": 1}}).encode())[1].params
    assert taken == {"p": value, "": 1}
    assert type(taken["p"]) is type(value)


def test_a_parameter_is_unicode_text():
    """A lone surrogate does not get as far as a source."""
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        requests.parse(b'{"source":"s","params":{"p":"\\ud800"}}')


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"url":"http://a/"', "not JSON"),
        (b'{"url":"http://a/","url":"http://b/"}', "duplicate key 'url'"),
        (b'{"url":"http://a/","max_age":NaN}', "NaN is not a JSON number"),
        (b'{"url":"http://a/","max_age":Infinity}', "Infinity is not a JSON number"),
        (b'{"url":"http://a/","max_age":1e999}', "number out of range: 1e999"),
        (b'{"url":"http://a/\\ud800"}', "lone surrogate"),
        (b'{"url":"http://a/","body":' + b"1" * 5000 + b"}", "a number of more than 4300 digits"),
        (b'{"url":"http://a/","body":' + b"[" * 64 + b"]" * 64 + b"}", "nested deeper than 64 levels"),
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b'{"url":"http://a/\xff"}', "not UTF-8 at byte 17"),
        ('{"url":"http://a/"}'.encode("utf-16"), "UTF-16"),
        (b"null", "a request is a JSON object, not null"),
        (b"true", "a request is a JSON object, not a boolean"),
        (b"1", "a request is a JSON object, not a number"),
        (b'"http://a/"', "a request is a JSON object, not a string"),
        (b'[{"url":"http://a/"}]', "a request is a JSON object, not an array"),
        (b" " * (MAX_BYTES + 1), f"the request has {MAX_BYTES + 1} bytes; at most {MAX_BYTES} are allowed"),
    ],
)
def test_bytes_that_are_no_request_are_refused_with_the_reason(value, reason):
    """Tombstones, broken or forbidden JSON, other JSON values and oversize are InvalidRequest and say so."""
    with pytest.raises(InvalidRequest) as caught:
        requests.parse(value)
    assert reason in str(caught.value)


def test_a_request_of_exactly_the_limit_is_taken():
    """One MiB is within the limit."""
    value = b'{"url":"http://example.org/"}'.ljust(MAX_BYTES)
    assert requests.parse(value)[1].url == URL


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "url: missing: give a url or a source"),
        ({"id": "a"}, "url: missing: give a url or a source"),
        ({"url": URL, "source": "s"}, "url: give either url or source, not both"),
        ({"url": URL, "params": {}}, "params: only allowed with a source"),
        ({"url": URL, "Url": URL}, "Url: unknown field"),
        ({"url": URL, "": 1}, "unknown field"),
        ({"url": None}, "url: Field may not be null"),
        ({"url": 5}, "url: must be a string, not a number"),
        ({"url": [URL]}, "url: must be a string, not an array"),
        ({"url": {"a": URL}}, "url: must be a string, not an object"),
        ({"url": True}, "url: must be a string, not a boolean"),
        ({"source": ""}, "source: must have 1 to 128 characters, not 0"),
        ({"source": "s" * 129}, "source: must have 1 to 128 characters, not 129"),
        ({"source": 1}, "source: must be a string, not a number"),
        ({"source": "s", "params": []}, "params: Not a valid mapping type"),
        ({"source": "s", "params": None}, "params: Field may not be null"),
        ({"url": URL, "id": ""}, "id: must have 1 to 128 characters, not 0"),
        ({"url": URL, "id": "x" * 129}, "id: must have 1 to 128 characters, not 129"),
        ({"url": URL, "id": 7}, "id: must be a string, not a number"),
        ({"url": URL, "id": None}, "id: Field may not be null"),
        ({"url": URL, "id": ["a"]}, "id: must be a string, not an array"),
        ({"url": URL, "method": "get"}, "method: must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ({"url": URL, "method": "CONNECT"}, "method: must be one of"),
        ({"url": URL, "method": "GET / HTTP/1.1\r\nX:"}, "method: must be one of"),
        ({"url": URL, "method": []}, "method: must be a string, not an array"),
        ({"url": URL, "schema": "nope"}, "schema: unknown schema 'nope'; known: json, page, text"),
        ({"url": URL, "schema": "x" * 500}, "schema: unknown schema '" + "x" * 60 + "'; known: "),
        ({"url": URL, "schema": 1}, "schema: must be a string, not a number"),
        ({"url": URL, "max_age": "1"}, "max_age: must be a number of seconds, not a string"),
        ({"url": URL, "max_age": True}, "max_age: must be a number of seconds, not a boolean"),
        ({"url": URL, "max_age": -1}, "max_age: must be a number of seconds, 0 or more"),
        ({"url": URL, "max_age": 10**400}, "max_age: must be a number of seconds, 0 or more"),
        ({"url": URL, "timeout": 0}, "timeout: Must be greater than 0"),
        ({"url": URL, "timeout": -0.5}, "timeout: must be a number of seconds, 0 or more"),
        ({"url": URL, "timeout": 300.1}, "timeout: Must be greater than 0 and less than or equal to 300"),
        ({"url": URL, "timeout": {}}, "timeout: must be a number of seconds, not an object"),
    ],
)
def test_a_wrong_field_is_refused_by_name(members, message):
    """Unknown keys, wrong types, bad values, and both or neither of url and source name the field at fault."""
    assert message in refusal(members)


def test_every_wrong_field_is_told_at_once():
    """One result names all that is wrong, so that a producer need not ask again for each."""
    message = refusal({"url": "ftp://a", "id": 1, "timeout": "x", "surprise": 1, "checks": ["nope"]})
    for name in ("url", "id", "timeout", "surprise", "checks.0.name"):
        assert f"{name}: " in message


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "headers: Not a valid mapping type"),
        ("a: b", "headers: Not a valid mapping type"),
        ({"A": 1}, "headers.A.value: Not a valid string"),
        ({"A": None}, "headers.A.value: Field may not be null"),
        ({"A": ["b"]}, "headers.A.value: Not a valid string"),
        ({"": "b"}, "headers: '' is not a header name"),
        ({"a b": "c"}, "headers: 'a b' is not a header name"),
        ({"a:": "c"}, "headers: 'a:' is not a header name"),
        ({"a\r\nHost": "evil"}, r"headers: 'a\r\nHost' is not a header name"),
        ({"a\n": "evil"}, r"headers: 'a\n' is not a header name"),
        ({"a\0": "c"}, r"headers: 'a\x00' is not a header name"),
        ({"ä": "c"}, "headers: 'ä' is not a header name"),
        ({"A": "b\r\nHost: evil"}, "headers: A has a value that cannot be sent"),
        ({"A": "b\n"}, "headers: A has a value that cannot be sent"),
        ({"A": "b\r"}, "headers: A has a value that cannot be sent"),
        ({"A": "b\0c"}, "headers: A has a value that cannot be sent"),
        ({"A": "b\x7f"}, "headers: A has a value that cannot be sent"),
        ({"A": "ä"}, "headers: A has a value that cannot be sent"),
        ({"A": " b"}, "headers: A has a value that cannot be sent"),
        ({"A": "b\t"}, "headers: A has a value that cannot be sent"),
        ({"A": "x" * 8193}, "headers: A has 8193 characters; at most 8192 are allowed"),
        ({"Accept": "a", "ACCEPT": "b"}, "headers: ACCEPT is given twice"),
        ({f"a{n}": "b" for n in range(65)}, "headers: 65 headers; at most 64 are allowed"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers, reason):
    """Header injection, bad names and values, repeats and floods are refused under `headers`."""
    assert reason in refusal({"url": URL, "headers": headers})


@pytest.mark.parametrize("name", sorted(CONNECTION_HEADERS))
@pytest.mark.parametrize("spell", [str.lower, str.title, str.upper])
def test_headers_of_the_connection_are_the_worker_s(name, spell):
    """Host, Content-Length and what else frames a message is refused in any case of letters."""
    assert f"headers: {spell(name)} is set by the worker itself" in refusal({"url": URL, "headers": {spell(name): "1"}})


def test_headers_at_the_limits_are_taken():
    """Sixty-four headers, an empty value and one of 8,192 characters are all within the limits."""
    headers = {f"a{n}": "b" for n in range(62)} | {"empty": "", "!#$%&'*+.^_`|~-09Az": "x" * 8192}
    assert requests.load({"url": URL, "headers": headers})[1].headers == headers


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must be an absolute http:// or https:// URL"),
        ("example.org", "must be an absolute http:// or https:// URL"),
        ("/path", "must be an absolute http:// or https:// URL"),
        ("//example.org/", "must be an absolute http:// or https:// URL"),
        ("ftp://example.org/", "must be an absolute http:// or https:// URL"),
        ("file:///etc/passwd", "must be an absolute http:// or https:// URL"),
        ("javascript:alert(1)", "must be an absolute http:// or https:// URL"),
        ("gopher://example.org:70/", "must be an absolute http:// or https:// URL"),
        ("httpx://example.org/", "must be an absolute http:// or https:// URL"),
        ("http:", "has no valid host"),
        ("http:example.org", "has no valid host"),
        ("http:///x", "has no valid host"),
        ("http://", "has no valid host"),
        ("http://:80/", "has no valid host"),
        ("http://user@/", "has no valid host"),
        ("http://?x", "has no valid host"),
        ("http://#x", "has no valid host"),
        ("http://[]/", "is not a valid URL"),
        ("http://[::1", "is not a valid URL"),
        ("http://::1]/", "is not a valid URL"),
        ("http://[1.2.3.4]/", "is not a valid URL"),
        ("http://[nonsense]/", "is not a valid URL"),
        ("http://a\u2100b/", "is not a valid URL"),
        ("http://example.org:0/", "has no valid port"),
        ("http://example.org:000/", "has no valid port"),
        ("http://example.org:-1/", "is not a valid URL"),
        ("http://example.org:+80/", "is not a valid URL"),
        ("http://example.org:8_0/", "is not a valid URL"),
        ("http://example.org:65536/", "is not a valid URL"),
        ("http://example.org:99999/", "is not a valid URL"),
        ("http://example.org:80:90/", "is not a valid URL"),
        ("http://example.org:port/", "is not a valid URL"),
        ("http://example.org:\uff18\uff10/", "is not a valid URL"),
        (" http://example.org/", "has a space, backslash or control character"),
        ("http://example.org/ ", "has a space, backslash or control character"),
        ("http://example.org/a b", "has a space, backslash or control character"),
        ("http://exa mple.org/", "has a space, backslash or control character"),
        ("http://example.org/\r\nHost: evil", "has a space, backslash or control character"),
        ("http://example.org/\n", "has a space, backslash or control character"),
        ("http://example.org\n", "has a space, backslash or control character"),
        ("ht\ntp://example.org/", "has a space, backslash or control character"),
        ("http://example.org/\t", "has a space, backslash or control character"),
        ("http://example.org/\0", "has a space, backslash or control character"),
        ("http://example.org/\x7f", "has a space, backslash or control character"),
        ("http://a\\@127.0.0.1/", "has a space, backslash or control character"),
        ("http:\\\\example.org\\", "has a space, backslash or control character"),
        ("http://example.org/" + "a" * MAX_URL, f"has {MAX_URL + 19} characters; at most {MAX_URL} are allowed"),
        ("x" * 100_000, "has 100000 characters"),
    ],
)
def test_a_url_that_cannot_be_asked_for_is_refused(url, reason):
    """Every sort of URL that is not an absolute http(s) one with a host and a real port is refused under `url`."""
    assert f"url: {reason}" in refusal({"url": url})


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "https://example.org:443/a/b;c?d=e&f[]=%20",
        "HTTP://EXAMPLE.ORG/",
        "http://example.org:65535/",
        "http://example.org:60000/",
        "http://example.org:59999/",
        "http://example.org:/",
        "http://example.org?q",
        "http://example.org/#fragment",
        "http://[2001:db8::1]:8080/",
        "http://bücher.example/ä?ö=ü",
        "http://bücher.example:80/",
        "http://example.org/{x}^`",
        "http://example.org/".ljust(MAX_URL, "a"),
        "http://example.org/ä".ljust(MAX_URL, "a"),
    ],
)
def test_a_url_that_can_be_asked_for_is_taken_as_it_is(url):
    """Ports, queries, fragments, IPv6, non-ASCII hosts and paths, and the length limit itself are all valid."""
    assert requests.load({"url": url})[1].url == url


@settings(deadline=None)
@given(
    st.text(max_size=30) | st.text(alphabet="htps:/@[]#?0189.ax\\ \n", max_size=30).map(lambda rest: "http://" + rest)
)
def test_no_url_crashes_the_reader(url):
    """Any text is either taken as the URL, or refused as InvalidRequest or Denied that names the field."""
    try:
        read = requests.load({"url": url})[1].url
    except (InvalidRequest, Denied) as exc:
        read = str(exc)
    assert read == url or read.startswith("url: ")


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ("is_prime", "checks: must be an array of checks, not a string"),
        ({"name": "is_prime"}, "checks: must be an array of checks, not an object"),
        (None, "checks: Field may not be null"),
        (["is_prime"] * 65, "checks: 65 checks; at most 64 are allowed"),
        ([None], "checks.0: must be a JSON object"),
        ([5], "checks.0: must be a JSON object"),
        ([["is_prime"]], "checks.0: must be a JSON object"),
        (
            ["is_prime", "nope"],
            "checks.1.name: unknown check 'nope'; known: is_prime, json_schema, length, one_of, range, regex, sha256",
        ),
        ([""], "checks.0.name: unknown check ''"),
        (["x" * 200], "checks.0.name: unknown check '" + "x" * 60 + "'; known"),
        ([{}], "checks.0.name: Missing data for required field"),
        ([{"name": 5}], "checks.0.name: Not a valid string"),
        ([{"name": None}], "checks.0.name: Field may not be null"),
        ([{"name": "is_prime", "fields": "a"}], "checks.0.fields: unknown field"),
        ([{"name": "is_prime", "field": ""}], "checks.0.field: Length must be between 1 and 256"),
        ([{"name": "is_prime", "field": "a" * 257}], "checks.0.field: Length must be between 1 and 256"),
        ([{"name": "is_prime", "field": 0}], "checks.0.field: Not a valid string"),
        ([{"name": "is_prime", "args": []}], "checks.0.args: Not a valid mapping type"),
        ([{"name": "is_prime", "args": "a"}], "checks.0.args: Not a valid mapping type"),
    ],
)
def test_bad_checks_are_refused_with_their_place(checks, reason):
    """A check that is unknown, misspelt or of the wrong type is named by its position and field."""
    assert reason in refusal({"url": URL, "checks": checks})


def test_every_bad_check_is_told_and_the_good_ones_are_not():
    """All wrong checks of a request are named together."""
    message = refusal({"url": URL, "checks": ["nope", "is_prime", {}]})
    assert "checks.0.name" in message
    assert "checks.2.name" in message
    assert "checks.1" not in message


def test_sixty_four_checks_are_taken():
    """The limit itself is valid, also with the same check many times."""
    assert len(requests.load({"url": URL, "checks": ["is_prime"] * 64})[1].checks) == 64


@pytest.mark.parametrize("body", ["", "text", 0, 1.5, False, True, [], {}, [None], {"a": {"b": None}}])
def test_a_body_is_any_json_value(body):
    """Strings, numbers, booleans, arrays and objects are kept as they are, also the empty and false ones."""
    taken = requests.load({"url": URL, "method": "POST", "body": body})[1].body
    assert taken == body
    assert type(taken) is type(body)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=128))
def test_an_id_is_any_text_of_its_length(text):
    """Any Unicode text of 1 to 128 characters is an id, kept as it is and no part of the request."""
    request_id, request = requests.parse(json.dumps({"id": text, "url": URL}).encode())
    assert request_id == requests.check_id(text) == text
    assert request == Request(url=URL)


@pytest.mark.parametrize("text", ["", "x" * 129])
def test_an_id_of_another_length_is_refused_by_name(text):
    """An id from elsewhere than the body is held to the same length."""
    with pytest.raises(InvalidRequest, match=rf"^id: must have 1 to 128 characters, not {len(text)}$"):
        requests.check_id(text)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["id", "url", "source", "params", "method", "headers", "body", "schema", "checks", "max_age", "x"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_no_object_crashes_the_reader(members):
    """Any values under any of the known names make a request or an InvalidRequest that says why."""
    try:
        request = requests.load(members)[1]
    except InvalidRequest as exc:
        request = exc
    assert str(request)
    assert isinstance(request, InvalidRequest) or (request.url is None) != (request.source is None)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@example.org/",
        "http://user@example.org/",
        "http://:hunter2@example.org/",
        "http://@example.org/",
        "https://example.com@127.0.0.1/",
        "http://user:hunter2@[::1]:8080/",
        "http://a@b@example.org/",
    ],
)
def test_credentials_in_a_url_are_denied(url):
    """A URL with userinfo is denied by rule, wherever its host really is, and the message holds no password."""
    with pytest.raises(Denied) as caught:
        requests.parse(json.dumps({"url": url}).encode())
    assert str(caught.value) == "url: credentials in a URL are not allowed; send an Authorization header"


def test_a_url_that_is_none_is_not_quoted():
    """What is said of a URL that cannot be read does not hold the password in it."""
    assert "hunter2" not in refusal({"url": "http://user:hunter2@[nonsense]/"})
    assert "hunter2" not in refusal({"url": "http://user:hunter2@example.org:99999/"})


def test_a_null_body_is_no_body():
    """`body: null` is the same as none given."""
    assert requests.parse(b'{"url":"http://example.org/","body":null}')[1] == Request(url=URL)


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=10).filter(lambda name: name not in RequestSchema().fields),
        st.none(),
        min_size=1,
        max_size=4,
    )
)
def test_names_that_a_producer_chose_are_not_kept(members):
    """Unknown fields of any name leave nothing behind in the cache of schemas."""
    requests._schema_for.cache_clear()
    assert "unknown field" in refusal({"url": URL, **members})
    assert requests._schema_for.cache_info().currsize == 0


def test_a_schema_is_kept_for_each_set_of_known_names():
    """Requests with the same fields, in any order, share one schema."""
    requests._schema_for.cache_clear()
    for members in ({"url": URL, "method": "GET"}, {"method": "PUT", "url": URL}, {"url": URL, "schema": "json"}):
        requests.load(members)
    assert requests._schema_for.cache_info().currsize == 2


def test_regular_expressions_of_a_request_are_bounded():
    """Each is compiled before the request begins: eight different ones at most, the same one as often as it likes."""

    def checks(patterns):
        return {"url": "http://a/", "checks": [{"name": "regex", "args": {"pattern": each}} for each in patterns]}

    requests.load(checks([f"a{number}" for number in range(MAX_PATTERNS)] * 8))
    both = checks([f"a{number // 2}" for number in range(MAX_PATTERNS + 1)])
    for number, each in enumerate(both["checks"]):
        each["args"]["ignore_case"] = number % 2 == 1
    with pytest.raises(InvalidRequest, match="more than 8 different regular expressions"):
        requests.load(both)
    with pytest.raises(InvalidRequest, match="more than 8 different regular expressions"):
        requests.load(checks([f"a{number}" for number in range(MAX_PATTERNS + 1)]))


@pytest.mark.parametrize("pattern", [r"\pN{1000}", r"(\pL\pN){30}" * 10, r"(?:\pL{50}){19}", "(" * 400, "[" * 900])
def test_the_worst_regular_expressions_take_less_than_a_turn(pattern):
    """As many as a request may have, as bad as they may be, are judged in 20 ms, whatever the letters' case."""
    regexes = [{"name": "regex", "args": {"pattern": f"{pattern[:990]}{number}", "ignore_case": number % 2 == 1}}
               for number in range(MAX_PATTERNS)]  # fmt: skip

    def judged():
        _pattern.cache_clear()
        with contextlib.suppress(InvalidRequest):
            requests.load({"url": URL, "checks": regexes})

    assert least(judged) < allowed()


def test_a_pattern_is_judged_as_long_as_nothing_is_wrong():
    """A pattern that RE2 refuses for its size costs the most: of many, the first is said, and what else is wrong."""
    large = [{"name": "regex", "args": {"pattern": r"\pL{500}" + str(number)}} for number in range(3)]
    _pattern.cache_clear()
    with pytest.raises(InvalidRequest) as refused:
        requests.load({"url": URL, "checks": [*large, "no_such_check"]})
    assert "checks.0" in str(refused.value)
    assert "checks.1" not in str(refused.value)
    assert "no_such_check" in str(refused.value)
    assert _pattern.cache_info().misses == 1


ODD = st.sampled_from([None, True, False, 0, -1, 1, 300, 301, 2.5, 1e9, 10**400, "", "x", "x" * 129, [], {}, URL,
                       "http://h:0/", "http://u@h/", "http://h/ x", "ftp://h/", "http://h/" + "x" * 16_384,
                       strictjson.Number("1.10")])  # fmt: skip


@given(st.dictionaries(st.sampled_from(["id", "url", "max_age", "timeout", "method", "no"]), ODD), st.booleans())
def test_what_is_loaded_without_the_schema_is_what_it_would_load(members, valid):
    """The usual requests' short way takes nothing that the schema refuses, and makes the same of the rest."""
    if valid:
        members["url"] = URL
    loaded = requests._load_usual(members)
    if loaded is not None:
        assert repr(loaded) == repr(requests._SCHEMA.load(members))


@pytest.mark.parametrize("times", [{}, {"timeout": 30}, {"max_age": 3600, "timeout": 0.5}])
def test_usual_requests_are_loaded_without_the_schema(times):
    """An id, a URL and times: what most requests are."""
    assert requests._load_usual({"id": "r", "url": URL, **times}) is not None


def test_a_request_with_thousands_of_fields_is_refused_at_once():
    """They are neither validated nor repeated one by one."""
    value = json.dumps({f"x{number}": 1 for number in range(5_000)}).encode()

    def refused():
        with pytest.raises(InvalidRequest, match="fields at most, not 5000"):
            requests.parse(value)

    assert least(refused) < allowed()


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (b"null", b"null"),
        (b"1.10", b"1.10"),
        (b"-0", b"-0"),
        (b'{"n":9007199254740993,"d":0.29999999999999998}', b'{"n": 9007199254740993, "d": 0.29999999999999998}'),
        (b'[1,"a,\\"b"]', b'[1, "a,\\"b"]'),
        (b'"\\u00e4"', '"\u00e4"'.encode()),
    ],
)
def test_a_context_is_any_json_whose_digits_stay(text, encoded):
    """A context is kept as JSON, with every digit as it was written."""
    for others in (b'"url":"http://example.org/"', b'"source":"s","params":{"a":1}'):
        assert requests.parse(b'{%b,"context":%b}' % (others, text))[1].context == encoded
    assert requests.parse(b'{"url":"http://example.org/","timeout":1}')[1].context is None


def test_a_context_has_64_kib_of_compact_json_at_most():
    """The limit is of the compact text, whatever blanks are in the request; the error names the field."""
    items = [1] * ((requests.MAX_CONTEXT - 1) // 2)
    most = json.dumps({"url": URL, "context": [*items]}).encode()
    assert len(requests.parse(most)[1].context) > requests.MAX_CONTEXT
    with pytest.raises(InvalidRequest, match=r"^context: has 65537 bytes; at most 65536 are allowed$"):
        requests.parse(json.dumps({"url": URL, "context": [*items, 1]}).encode())
    with pytest.raises(InvalidRequest, match=r"^context: has 65538 bytes"):
        requests.parse(json.dumps({"url": URL, "context": "x" * requests.MAX_CONTEXT}).encode())
