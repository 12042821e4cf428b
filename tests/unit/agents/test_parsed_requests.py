from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.answer import parsed_requests as known
from agents.answer.parsed_requests import (
    MAX_KNOWN_BYTES,
    MAX_PLAIN_BYTES,
    ParsedRequest,
    ParsedRequestCache,
    check_key,
    cut_id,
    entry_key,
    parse_request,
    salvage_id,
    source_tag,
    target_tag,
)
from models import request as requests
from models import strictjson
from models.checks import Call
from models.errors import InvalidRequest
from models.request import Request
from models.source import CachePolicy, Param, Source, Sources
from models.template import JsonTemplate, UrlTemplate
from streams.http.url import Origin

SPACE = st.text(alphabet=" \t\r\n", max_size=2)
PLAIN_ID = st.text(alphabet=[chr(c) for c in range(32, 127) if chr(c) not in '"\\'], min_size=1, max_size=20)
ANY_ID = PLAIN_ID | st.text(min_size=1, max_size=20) | st.sampled_from(["id", '"id"', '","id":"x', "\\", '}"'])
NAMES = st.sampled_from(["url", "params", "body", "ids", "Id", "", '"id"', "x,", "}", "i\\u0064"])
VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["id", "}", ',"id":"x"}', '{"id":"x",', "\\"]) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.just("id"), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def written(draw, members):
    """Write an object's members as JSON in a random layout: spaces anywhere, escapes or UTF-8."""
    ascii_only = draw(st.booleans())
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")]))
    parts = []
    for name, value in members:
        text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
        parts.append(draw(SPACE) + json.dumps(name) + draw(SPACE) + ":" + draw(SPACE) + text + draw(SPACE))
    return (draw(SPACE) + "{" + ",".join(parts) + "}" + draw(SPACE)).encode()


@st.composite
def objects(draw, ids=ANY_ID):
    """Draw an object with an id at the first, the last, any place, or none, and its bytes."""
    others = list(draw(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)).items())
    place = draw(st.none() | st.integers(0, len(others)))
    if place is not None:
        others.insert(place, ("id", draw(ids)))
    return dict(others), draw(written(others)), place


@settings(deadline=None, max_examples=400)
@given(objects())
def test_what_is_left_after_cutting_is_the_object_without_its_id(drawn):
    """Whenever cutting gives a rest, that is the text of the same object less its own id, and the id is the one cut."""
    members, value, _ = drawn
    request_id, rest = cut_id(value)
    if rest is None:
        assert request_id is None
        return
    assert json.loads(rest) == {name: inner for name, inner in members.items() if name != "id"}
    assert (None if request_id is None else json.loads(request_id)) == members.get("id")


@settings(deadline=None)
@given(objects(PLAIN_ID.filter(lambda text: text != "id")))
def test_a_plain_id_is_cut_from_either_end(drawn):
    """An id of printable ASCII at the first or last place is always cut, whatever ids the rest nests."""
    members, value, place = drawn
    if place is None or 0 < place < len(members) - 1:
        return
    request_id, rest = cut_id(value)
    assert json.loads(request_id) == members["id"]
    assert rest is not None


@pytest.mark.parametrize(
    "value",
    [
        b'{"url":"http://a/","id":"x","method":"GET"}',
        b'{"id":"x"}',
        b'{"id":7,"url":"http://a/"}',
        b'{"id":"","url":"http://a/"}',
        b'{"id":"a\\"b","url":"http://a/"}',
        '{"id":"ä","url":"http://a/"}'.encode(),
        b'{"id":"' + b"x" * 129 + b'","url":"http://a/"}',
        b'{"source":"s","params":{"a":1,"id":"x"}}',
        b'{"source":"s","body":[{"id":"x"}]}',
        b'["id"]',
        b'"id"',
    ],
)
def test_where_cutting_is_not_safe_nothing_is_cut(value):
    """An id in the middle, alone, of another form, or nested in params or body goes the slow way."""
    assert cut_id(value) == (None, None)


def test_bytes_without_an_id_are_their_own_rest():
    """What nowhere says "id" is remembered as it is."""
    assert cut_id(b'{"url":"http://a/"}') == (None, b'{"url":"http://a/"}')


BODIES = [
    {"url": "http://a/"},
    {"url": "http://a/", "method": "HEAD"},
    {"url": "http://a/", "max_age": 5},
    {"source": "s", "params": {"id": "x"}},
    {"source": "s", "params": {"id": "y"}},
    {"source": "s", "params": {"a": 1, "id": "x"}},
    {"url": "http://a/", "method": "POST", "body": {"id": "x"}},
    {"url": "http://a/", "method": "POST", "body": ',"id":"x"}'},
    {"url": "ftp://a/"},
    {"url": "http://a/", "source": "s"},
    {"url": "http://a/b?c=%20", "timeout": 30},
    {"url": "http://a/", "timeout": 301},
    {"url": "http://a/", "timeout": 0},
    {"url": "http://a/", "timeout": 1.5},
    {"url": "http://a:99999/", "timeout": 30},
    {"url": "http://a\u0000/"},
    {"url": "http://" + "a" * 64 + "/"},
    {"url": "http://a/" + "x" * 16_384},
]


FUNCTION = Source("s", call="m:f", params={"id": Param(default=""), "a": Param(default=0)}, identity="1" * 32)
SOURCES = Sources({"s": FUNCTION})


@st.composite
def request_bytes(draw):
    members = list(draw(st.sampled_from(BODIES)).items())
    if draw(st.booleans()):
        members.insert(
            draw(st.integers(0, len(members))), ("id", draw(st.sampled_from(["x", "y", "id", 'q"', "", "ä"])))
        )
    return draw(written(members))


def slowly(value):
    """Read a request without any memory."""
    request_id, request = requests.parse(value)
    return None if request_id is None else strictjson.quote(request_id), parse_request(request, SOURCES)


def outcome(read, value):
    """Return what reading gives, or what is said against it."""
    try:
        return read(value)
    except InvalidRequest as exc:
        return str(exc)


@settings(deadline=None)
@given(st.lists(request_bytes(), min_size=2, max_size=20))
def test_a_book_reads_as_if_it_remembered_nothing(values):
    """However requests follow each other, each is read as a fresh parse reads it: no two share what they must not."""
    book = ParsedRequestCache(SOURCES)
    for value in values:
        assert outcome(book.parse, value) == outcome(slowly, value)


@pytest.mark.parametrize(
    "values",
    [
        (b'{"id":"1","url":"http://a/"}', b'{"id":"2","url":"http://a/"}'),
        (b'{"url":"http://a/","id":"1"}', b'{"url":"http://a/","id":"2"}'),
        (b'{"id":"1","url":"http://a/"}', b'{"url":"http://a/"}'),
        (b'{"url":"http://a/"}', b'{"url":"http://a/"}'),
    ],
)
def test_the_same_request_under_another_id_is_known_again(values):
    """The second of two requests that differ by their id only is not validated anew."""
    book = ParsedRequestCache()
    first, second = (book.parse(value)[1] for value in values)
    assert first is second


def test_different_requests_are_not_taken_for_each_other():
    """One more field, or another value, is another request."""
    book = ParsedRequestCache(SOURCES)
    read = [book.parse(json.dumps({"id": "1", **body}).encode())[1].request for body in BODIES[:8]]
    assert len({repr(request) for request in read}) == 8


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", b"[]", b'{"id":"x"}', b'{"id":"x","url":"nope"}', b'{"id":"x","url":"http://a/","id":"y"}'],
)
def test_what_is_no_request_is_refused_every_time(value):
    """An invalid request is never remembered as a valid one."""
    book = ParsedRequestCache()
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            book.parse(value)


def test_a_large_request_is_read_but_not_remembered():
    """With a body, beyond the limit each reading is a new one; at the limit it is remembered."""
    book = ParsedRequestCache()
    room = MAX_KNOWN_BYTES - len(b'{"url":"http://a/","body":""}')
    for extra, same in ((0, True), (1, False)):
        value = b'{"url":"http://a/","body":"%b"}' % (b"x" * (room + extra))
        assert (book.parse(value)[1] is book.parse(value)[1]) is same


def test_a_request_without_nested_values_is_remembered_up_to_a_higher_limit():
    """Headers and a long URL take little more room than their bytes; nested values take many times theirs."""
    book = ParsedRequestCache()
    room = MAX_PLAIN_BYTES - len(b'{"url":"http://a/","headers":{"a":""}}')
    for extra, same in ((0, True), (1, False)):
        value = b'{"url":"http://a/","headers":{"a":"%b"}}' % (b"x" * (room + extra))
        assert (book.parse(value)[1] is book.parse(value)[1]) is same


def test_a_book_forgets_what_was_not_asked_for_lately(monkeypatch):
    """Two generations are kept: what is met again stays, what is not goes with the older one."""
    monkeypatch.setattr(known, "GENERATION", 3)
    book = ParsedRequestCache()
    values = [b'{"url":"http://a/%d"}' % number for number in range(20)]
    kept, lost = book.parse(values[0])[1], book.parse(values[1])[1]
    for value in values[2:]:
        book.parse(value)
        assert book.parse(values[0])[1] is kept
    assert len(book._young) + len(book._old) <= 6
    assert book.parse(values[1])[1] == lost
    assert book.parse(values[1])[1] is not lost


PLAIN = Request(url="http://a/")
POOLS = {
    "source": [None],
    "url": ["http://a/", "http://a/\u00e4", "http://a/b"],
    "method": ["GET", "HEAD"],
    "schema": ["json", "text"],
    "headers": [{}, {"A": "b"}, {"a": "b"}, {"A": "c"}, {"B": "b"}, {"A": "b", "B": "b"}],
    "body": [None, "", 0, False, 1, True, 1.0, "1", {}, [], {"A": "b"}],
    "checks": [(), (Call("x"),), (Call("y"),), (Call("x", "f"),), (Call("x", None, {"a": 1}),), (Call("x"), Call("x"))],
    "params": [{}, {"a": 1}, {"a": "1"}, {"a": True}, {"b": 1}],
    "timeout": [None, 1.0],
    "max_age": [None, 0.0, 9.0],
}
REQUESTS = st.builds(Request, **{name: st.sampled_from(pool) for name, pool in POOLS.items()})


def meaning(request):
    """Say in full what a document depends on, types and all."""
    headers = sorted((name.lower(), value) for name, value in request.headers.items())
    body, params = json.dumps(request.body), json.dumps(dict(request.params), sort_keys=True)
    return request.url, request.source, request.method, request.schema, headers, body, params


@settings(deadline=None, max_examples=300)
@given(REQUESTS, REQUESTS)
def test_requests_share_an_entry_exactly_if_their_documents_are_the_same(one, other):
    """The key is the same if and only if all that a document depends on is."""
    assert (entry_key(one) == entry_key(other)) is (meaning(one) == meaning(other))


def test_each_thing_a_document_depends_on_changes_the_key():
    """Changing any one field from the plain request to any other value of it makes another entry."""
    for name in ("url", "method", "schema", "headers", "body", "params"):
        for one, other in itertools.combinations(POOLS[name], 2):
            first, second = PLAIN._replace(**{name: one}), PLAIN._replace(**{name: other})
            assert (entry_key(first) == entry_key(second)) is (meaning(first) == meaning(second)), (name, one, other)


@pytest.mark.parametrize(
    "same",
    [
        PLAIN._replace(timeout=3.0),
        PLAIN._replace(max_age=3.0),
        PLAIN._replace(max_age=0.0, timeout=1.0),
        *(PLAIN._replace(checks=calls) for calls in POOLS["checks"]),
    ],
)
def test_deadline_age_and_checks_are_no_part_of_the_key(same):
    """How long one waits, how old an answer may be and what is asked of it change nothing of the document."""
    assert entry_key(same) == entry_key(PLAIN)


CALLS = st.builds(
    Call,
    st.sampled_from(["x", "y", "x.f"]),
    st.sampled_from([None, "f", "f.0", "null", ""]),
    st.sampled_from([{}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": 1, "b": 2}]),
)


@settings(deadline=None, max_examples=300)
@given(CALLS, CALLS)
def test_checks_share_a_verdict_exactly_if_they_ask_the_same(one, other):
    """The key of a check is the same if and only if its name, field and arguments are, types and all."""
    meant = [(call.name, call.field, json.dumps(call.args)) for call in (one, other)]
    assert (check_key(one) == check_key(other)) is (meant[0] == meant[1])


def test_the_order_of_arguments_is_no_part_of_a_check():
    """JSON's objects have none."""
    assert check_key(Call("x", None, {"a": {"c": 1, "d": 2}, "b": 2})) == check_key(
        Call("x", None, {"b": 2, "a": {"d": 2, "c": 1}})
    )


def test_a_request_knows_its_checks_in_order():
    """One key for each check, also for one that is named twice."""
    calls = (Call("x"), Call("y", "f"), Call("x"))
    assert parse_request(PLAIN._replace(checks=calls)).checks == tuple(map(check_key, calls))


def test_the_case_and_order_of_headers_are_no_part_of_the_key():
    """Header names are compared without case, and their order does not count."""
    one = PLAIN._replace(headers={"Accept": "a", "X-Y": "b"})
    other = PLAIN._replace(headers={"x-y": "b", "ACCEPT": "a"})
    assert entry_key(one) == entry_key(other)
    assert entry_key(one) != entry_key(other._replace(headers={"x-y": "B", "accept": "a"}))


def test_a_source_is_never_taken_for_a_url():
    """A source named like a URL has an entry of its own."""
    assert entry_key(Request(source="http://a/")) != entry_key(Request(url="http://a/"))
    assert entry_key(Request(source="a")) != entry_key(Request(source="b"))


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("GET", True),
        ("HEAD", True),
        ("OPTIONS", False),
        ("POST", False),
        ("PUT", False),
        ("PATCH", False),
        ("DELETE", False),
    ],
)
def test_only_answers_to_safe_methods_are_kept(method, kept):
    """A request that may change something has no entry in the cache."""
    request = PLAIN._replace(method=method, max_age=3.0)
    key = entry_key(request) if kept else None
    assert parse_request(request) == ParsedRequest(request, key, 3.0, origin=Origin("a", "a:80"))


@pytest.mark.parametrize(
    ("value", "request_id"),
    [
        (b'{"id":"a","url":"nope"}', b'"a"'),
        (b'{"id":"\\u00e4\\n","surprise":1}', '"ä\\n"'.encode()),
        (b'{"id":"' + b"x" * 128 + b'"}', b'"' + b"x" * 128 + b'"'),
        (b'{"id":"' + b"x" * 129 + b'"}', None),
        (b'{"id":""}', None),
        (b'{"id":7}', None),
        (b'{"id":null}', None),
        (b'{"id":true}', None),
        (b'{"id":[]}', None),
        (b'{"url":"nope"}', None),
        (b'{"id":"a","id":"b"}', None),
        (b'{"id":"\\ud800"}', None),
        (b'{"id":"a"', None),
        (b'["id"]', None),
        (b'"id"', None),
        (b"7", None),
        (b"null", None),
        (b"", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (None, None),
    ],
)
def test_the_id_of_an_invalid_request_is_saved_where_it_is_one(value, request_id):
    """A refused request keeps its id if that is a valid one, and nothing else is taken for an id."""
    assert salvage_id(value) == request_id


PLAIN_BYTES = b'{"url":"http://a/"}'
ESCAPED = [
    b'{"\\u0069d":"%b","url":"http://a/"}',
    b'{"i\\u0064":"%b","url":"http://a/"}',
    b'{"url":"http://a/","\\u0069\\u0064":"%b"}',
]


@pytest.mark.parametrize("form", ESCAPED)
def test_a_request_whose_id_is_written_with_escapes_keeps_its_id(form):
    """The same bytes, and others that differ by such an id only, each get their own id every time."""
    book = ParsedRequestCache()
    for name in (b"1", b"1", b"2", b"1"):
        assert book.parse(form % name)[0] == b'"%b"' % name


@pytest.mark.parametrize("form", ESCAPED)
def test_a_request_whose_id_is_written_with_escapes_is_not_remembered(form):
    """What cannot be told apart from a request without id is not put on record as one."""
    book = ParsedRequestCache()
    book.parse(form % b"1")
    assert not book._young


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"1","\\u0069d":"2","url":"http://a/"}',
        b'{"id":"1","\\u0069d":"1","url":"http://a/"}',
        b'{"\\u0069d":"1","url":"http://a/","id":"2"}',
        b'{"\\u0069d":"1","i\\u0064":"2","url":"http://a/"}',
    ],
)
def test_an_id_that_is_there_twice_is_refused_however_it_is_written(value):
    """Escapes hide no duplicate, also after the rest of the request has been met alone."""
    book = ParsedRequestCache()
    for warm in (PLAIN_BYTES, b'{"\\u0069d":"2","url":"http://a/"}', b'{"\\u0069d":"1","url":"http://a/"}'):
        book.parse(warm)
        with pytest.raises(InvalidRequest, match="duplicate key 'id'"):
            book.parse(value)


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\xc2\xa0", b"\x1c"])
@pytest.mark.parametrize(
    "form",
    [
        b'%b{"id":"1","url":"http://a/"}',
        b'{%b"id":"1","url":"http://a/"}',
        b'{"id"%b:"1","url":"http://a/"}',
        b'{"id":%b"1","url":"http://a/"}',
        b'{"id":"1"%b,"url":"http://a/"}',
        b'{"url":"http://a/"%b,"id":"1"}',
        b'{"url":"http://a/",%b"id":"1"}',
        b'{"url":"http://a/","id":"1"%b}',
        b'{"url":"http://a/","id":"1"}%b',
    ],
)
def test_only_the_spaces_of_json_are_spaces(form, space):
    """Other white space around an id is refused, also when the request without it is known."""
    book = ParsedRequestCache()
    book.parse(PLAIN_BYTES)
    with pytest.raises(InvalidRequest, match="not JSON"):
        book.parse(form % space)


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"1","url":"http://a/"}'.rjust(requests.MAX_BYTES + 1),
        b'{"url":"http://a/","id":"1"}'.ljust(requests.MAX_BYTES + 1),
    ],
)
def test_a_known_request_in_too_many_bytes_is_refused(value):
    """The size limit counts all bytes, also those that cutting the id would drop; at the limit it is taken."""
    book = ParsedRequestCache()
    known_one = book.parse(PLAIN_BYTES)[1]
    with pytest.raises(InvalidRequest, match="at most 1048576 are allowed"):
        book.parse(value)
    at_limit = value[1:] if value.startswith(b" ") else value[:-1]
    assert book.parse(at_limit) == (b'"1"', known_one)


@pytest.mark.parametrize("content", [b"7", b"1.5", b"true", b"null", b'["a"]', b'{"a":"b"}', b'[["a"]]', b"{}"])
def test_an_id_that_is_no_string_is_not_saved(content):
    """Arrays and objects have a length too, and are no id all the same."""
    assert salvage_id(b'{"id":%b}' % content) is None


# -- sources


def get(name, url="http://h/{a}", identity="1" * 32, **members):
    """Make a source that takes `a`."""
    return Source(name, UrlTemplate(url), params={"a": Param(default="x")}, identity=identity, **members)


KEY_FORM = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{40}")


@given(REQUESTS, st.none() | st.sampled_from(["s", "", "\n", "\u00e4"]))
def test_a_key_names_source_and_target(request, name):
    """Every key has the one form, by which entries can be found."""
    request = request._replace(source=name)
    key = entry_key(request, None if name is None else get(name))
    assert KEY_FORM.fullmatch(key)
    assert key.startswith(f"{source_tag(name)}-{target_tag(request.url)}-".encode())


def test_what_has_no_source_or_no_url_is_tagged_with_zeros():
    """A plain URL has no source, a function no URL; no name's tag is that of another here."""
    assert (source_tag(None), target_tag(None)) == ("0" * 8, "0" * 16)
    assert len({source_tag(name) for name in (None, "", "a", "b")}) == 4
    assert len({target_tag(url) for url in (None, "http://a/", "http://b/")}) == 3


NAMES_OF_SOURCES = st.sampled_from(["s", "t"])
IDENTITIES = st.sampled_from(["1" * 32, "2" * 32])


@settings(deadline=None, max_examples=300)
@given(*[st.tuples(st.none() | NAMES_OF_SOURCES, IDENTITIES, REQUESTS)] * 2)
def test_sources_share_no_entry(one, other):
    """Of two requests that ask the same, both are plain, or both are of one source with one definition."""
    keys, meanings = [], []
    for name, identity, request in (one, other):
        source = None if name is None else get(name, identity=identity)
        keys.append(entry_key(request._replace(source=name), source))
        meanings.append((name, name and identity, meaning(request)))
    assert (keys[0] == keys[1]) is (meanings[0] == meanings[1])


def test_a_change_of_credentials_is_a_change_of_key():
    """The identity covers the definition and its secrets: after either changed, nothing kept before is found."""
    request = Request(source="s", schema="")
    known = [parse_request(request, Sources({"s": get("s", identity=identity)})) for identity in ("1", "2", "1")]
    assert known[0].key == known[2].key != known[1].key
    assert known[0].request == known[1].request


def test_parameters_are_part_of_the_key_where_they_go():
    """Each value is another URL or another call; the default and the same value given are one."""
    sources = Sources({"u": get("u"), "f": FUNCTION})
    for name in "uf":
        given_x, given_y, default = (
            parse_request(Request(source=name, schema="", params=params), sources).key
            for params in ({"a": "x" if name == "u" else 0}, {"a": "y"}, {})
        )
        assert given_x == default != given_y


def test_a_request_for_a_source_becomes_what_the_source_says():
    """Method, URL and schema are the source's; deadline and max_age stay the request's."""
    source = get("s", method="HEAD", schema="text", timeout=3.0)
    known = parse_request(Request(source="s", schema="", params={"a": "b"}, max_age=5.0), Sources({"s": source}))
    request = known.request
    assert (request.method, request.url, request.schema, request.timeout) == ("HEAD", "http://h/b", "text", 3.0)
    assert (known.max_age, known.source) == (5.0, source)


@pytest.mark.parametrize(("methods_too", "kept"), [(False, False), (True, True)])
def test_a_source_may_have_answers_to_other_methods_kept(methods_too, kept):
    """Only where it says so, and then each body for itself."""
    source = get("s", method="POST", body=JsonTemplate({"q": "{a}"}), cache=CachePolicy(methods_too=methods_too))
    keys = [
        parse_request(Request(source="s", schema="", params={"a": value}), Sources({"s": source})).key
        for value in ("x", "y")
    ]
    assert all((key is not None) is kept for key in keys)
    assert (keys[0] != keys[1]) is kept


def test_a_plain_request_is_none_for_a_source_that_asks_the_same():
    """Who names the URL gets nothing that was fetched with a source's credentials, nor the other way round."""
    source = get("s", identity="")
    by_name, plain = (
        parse_request(Request(source="s", schema=""), Sources({"s": source})),
        parse_request(Request(url="http://h/x")),
    )
    assert by_name.request.url == plain.request.url
    assert by_name.key != plain.key


def test_a_book_knows_the_sources():
    """A source there is not is told every time; one there is is remembered."""
    book = ParsedRequestCache(SOURCES)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="no source 'other'"):
            book.parse(b'{"source":"other"}')
    assert book.parse(b'{"source":"s"}')[1] is book.parse(b'{"source":"s","id":"1"}')[1]


def test_contexts_neither_share_nor_fill_the_cache_and_ask_for_the_same():
    """Each request has its own context; none is kept, and the key of the answer does not know it."""
    cache, keys = ParsedRequestCache(), set()
    plain = cache.parse(b'{"url":"http://a/"}')[1]
    for number in range(5):
        parsed = cache.parse(b'{"id":"%d","url":"http://a/","context":{"n":%d}}' % (number, number))[1]
        assert parsed.request.context == b'{"n": %d}' % number
        assert parsed._replace(request=parsed.request._replace(context=None)) == plain
        keys.add(parsed.key)
    assert keys == {plain.key}
    assert list(cache._young) == [b'{"url":"http://a/"}']


def test_a_source_s_request_keeps_its_context():
    """Filling in a template leaves the context as it is."""
    sources = Sources({"s": Source("s", UrlTemplate("http://a/{n}"))})
    cache = ParsedRequestCache(sources)
    parsed = cache.parse(b'{"source":"s","params":{"n":1},"context":1.0}')[1]
    assert (parsed.request.url, parsed.request.context) == ("http://a/1", b"1.0")


@pytest.mark.parametrize(
    ("value", "context"),
    [
        (None, None),
        (b"\xff", None),
        (b'{"nope":1,"context":{"n":1.10}}', b'{"n": 1.10}'),
        (b'{"context":null}', b"null"),
        (b'{"a":"context"}', None),
        (b'["context"]', None),
        (b'{"context":1,"context":2}', None),
        (b'{"context":"%b"}' % (b"x" * known.LARGE), None),
    ],
)
def test_the_context_of_an_invalid_request_is_salvaged(value, context):
    """A request that is JSON has its context back, whatever is wrong with it."""
    assert known.salvage_context(value) == context


EVENT = b'{"id":"%b","specversion":"1.0","source":"s","type":"t","data":{"url":"http://a/"%b}}'


def test_requests_in_events_are_not_kept_and_have_their_own_ids():
    """An event's id can be cut out like a request's, but is not what its data is known by."""
    cache = ParsedRequestCache()
    plain = cache.parse(b'{"url":"http://a/"}')[1]
    for number in (b"1", b"2"):
        assert cache.parse(EVENT % (number, b""))[0] == b'"%b"' % number
        request_id, parsed = cache.parse(EVENT % (number, b',"id":"1"'))
        assert (request_id, parsed.key) == (b'"1"', plain.key)
    assert list(cache._young) == [b'{"url":"http://a/"}']


@pytest.mark.parametrize(
    ("value", "request_id", "context"),
    [
        (EVENT % (b"e", b',"nope":1,"context":1'), b'"e"', b"1"),
        (EVENT % (b"e", b',"nope":1,"id":"own"'), b'"own"', None),
        (b'{"specversion":"1.0","id":"e"}', b'"e"', None),
        (b'{"specversion":"1.0","id":"a\\nb","data":{"context":1}}', None, None),
        (b'{"specversion":"1.0","id":1}', None, None),
        (b'{"specversion":"1.0"}', None, None),
    ],
)
def test_an_invalid_request_in_an_event_has_an_id_and_a_context(value, request_id, context):
    """Its own go before the event's, as in a valid one."""
    assert (salvage_id(value), known.salvage_context(value)) == (request_id, context)
