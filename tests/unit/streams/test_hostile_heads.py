"""The heads of answers, and URLs, at their worst: none of them holds up the event loop, none leaves memory behind."""

from __future__ import annotations

import encodings
import gzip
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from marshmallow import ValidationError
from multidict import CIMultiDict
from yarl import URL

from models.errors import AnswerError, InvalidDocument, InvalidRequest, TooLarge
from models.source import CachePolicy
from models.text import MAX_LABEL, text_codec
from models.url import check_url
from streams.cache.freshness import MAX_LIST, Head, failure_lifetime, freshness, parse_directives
from streams.http.auth import Fixed
from streams.http.content import MAX_CODINGS_TEXT, MAX_MEMBERS, Decoder, codings_of, read_body
from streams.http.cookies import Cookies
from streams.http.errors import unsuccessful
from streams.http.excerpt import _read, chosen
from streams.http.policy import UpstreamPolicy
from streams.http.response import MAX_CONTENT_TYPE, media
from streams.http.url import MAX_URL, normal, parse, resolve
from tests.turns import allowed, begin, longest_turn

pytestmark = pytest.mark.slow

LINE, LINES = 32_000, 200
"""Characters of a header line, and lines, that the client takes."""


def cpu_time(work):
    began = begin()
    with suppress(ValueError, ValidationError, AnswerError):
        work()
    return time.thread_time() - began


class Credentials:
    def contained_in(self, _):
        return False


@pytest.mark.parametrize("lines", [1, LINES])
@pytest.mark.parametrize(
    "challenge", ["bearer ", "bearer error= ", "bearer error" + " " * 9_000, "error=", '"', "Bearer, "]
)
def test_no_challenge_holds_up_the_event_loop(challenge, lines):
    """A 403 whose WWW-Authenticate is as long as any header is judged within a turn."""
    headers = CIMultiDict([("WWW-Authenticate", (challenge * LINE)[:LINE])] * lines)
    response = SimpleNamespace(status=403, reason="", headers=headers)
    policy = UpstreamPolicy(1, credentials=Credentials())
    assert cpu_time(lambda: unsuccessful("h", response, policy)) < allowed()


@pytest.mark.parametrize("credentials", [None, Credentials()])
def test_a_challenge_is_only_looked_at_where_a_token_could_be_renewed(credentials):
    """Without credentials no 403 refuses any."""
    headers = CIMultiDict([("WWW-Authenticate", 'Basic realm="x"'), ("WWW-Authenticate", "Bearer error=invalid_token")])
    response = SimpleNamespace(status=403, reason="", headers=headers)
    error = unsuccessful("h", response, UpstreamPolicy(1, credentials=credentials))
    assert bool(error.refuses_credentials) is (credentials is not None)


@pytest.mark.parametrize(
    "content_type",
    ['a/b; x="' + ";" * LINE, "a/b; " + ";" * LINE, 'a/b;x="\\' * (LINE // 8), 'a/b; x="' + "\\" * LINE, "a" * LINE,
     'a/b; x="\\"' + '\\";x="' * 9_000, "a/b;" + " " * LINE, "a/b; x" + " " * LINE, "a/b; " + "x*1=a;" * 5_000],
)  # fmt: skip
def test_no_content_type_holds_up_the_event_loop(content_type):
    """However it is quoted, also if it is another one each time."""
    assert cpu_time(lambda: media(content_type)) < allowed()


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ('text/html; x="a;charset=no"; charset="koi8-r"', ("text/html", "koi8-r")),
        ('text/html;x="\\"; charset=no";CHARSET = k\\r', ("text/html", "k\\r")),
        ('text/html;charset="koi\\8-r"', ("text/html", "koi8-r")),
        ("text/html ; charset=koi8-r ; x", ("text/html", "koi8-r")),
        ("text/html;;charset=koi8-r;charset=utf-8", ("text/html", "koi8-r")),
        ('text/html; charset="koi8-r', ("text/html", '"koi8-r')),
        ("a/b/c", ("text/plain", None)),
        ("text/html\udca0; charset=utf-8", ("text/plain", "utf-8")),
        ("text/html; charset=", ("text/html", None)),
        ("text/html;" + " " * MAX_CONTENT_TYPE + "charset=koi8-r", ("text/html", None)),
    ],
)
def test_a_content_type_is_read_with_its_quotes(content_type, expected):
    """Parameters are those of RFC 9110, section 5.6.6; what is quoted is none."""
    assert media(content_type) == expected


HOSTS = ["\ufdfa" * 5_000,
         "\u00e9." * 8_000, "xn--" + "a" * 16_000, "xn--a-ecp." * 1_600, "\u00e9" * 8_000, "a" * 16_000,
         ".".join(["\ufdfa" * 60] * 4), "\u1100\u1161" * 5_000, "\u3002" * 5_000, "@" * 16_000, "a." * 8_000,
         "\u00e9" * 8_000 + "@h", ":" * 16_000, ".".join(["a" * 60] * 5), "a" * 64 + ".b"]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=range(len(HOSTS)))
def test_no_host_holds_up_the_event_loop(host):
    """No longer name than the DNS has is worked on, whether a request or a Location has it."""
    with suppress(ValueError, InvalidRequest):
        parse("http://\u00e9.example/")  # what the first of them loads
    for work in (check_url, parse, lambda url: resolve(parse("http://h/"), url)):
        assert cpu_time(lambda work=work: work(f"http://{host}/")) < allowed()


@pytest.mark.parametrize("host", ["\u00e9" * 8_000, "a." * 8_000, "xn--" + "a" * 16_000, "a" * 64 + ".b", "\ufdfa" * 9])
def test_a_host_that_no_dns_has_is_refused_without_being_repeated(host):
    """In a request, in a source's URL and in a Location, whatever is worked on."""
    for work in (check_url, parse, lambda url: resolve(parse("http://h/"), url)):
        with pytest.raises((ValueError, InvalidRequest, ValidationError)) as caught:
            work(f"http://{host}/")
        assert host not in str(caught.value)


@pytest.mark.parametrize(
    "host", [".".join(["a" * 62] * 4), "a" * 63 + ".b", ".".join(["a" * 62] * 4) + ".", "e\u0301" * 50]
)
def test_the_longest_hosts_are_taken(host):
    """253 characters, with labels of 63, a dot at the end and characters that are composed."""
    for port in ("", ":8080"):
        check_url(f"http://{host}{port}/")
        assert parse(f"http://{host}{port}/").host


@pytest.mark.parametrize("lines", [1, LINES])
@pytest.mark.parametrize("name", ["Cache-Control", "Vary", "Content-Encoding"])
@pytest.mark.parametrize("member", ["a,", 'a="\\",', '"', '"\\', "a;", '="', ","])
def test_no_list_holds_up_the_event_loop(member, name, lines):
    """Many lines of a list, as long as any, are judged within a turn; so is the longest that is looked at."""
    for length in (LINE, MAX_LIST):
        headers = CIMultiDict([(name, (member * LINE)[:length])] * lines)
        assert cpu_time(lambda headers=headers: freshness([Head(200, headers)], CachePolicy(), 0.0)) < allowed()
        assert cpu_time(lambda headers=headers: codings_of(headers)) < allowed()


def test_an_answer_whose_lists_are_too_long_is_not_kept():
    """What is beyond the bound might forbid it; a failure is not remembered either."""
    for name in ("Cache-Control", "Vary"):
        headers = CIMultiDict([(name, "max-age=60"), (name, "a," * (MAX_LIST // 2))])
        assert freshness([Head(200, headers)], CachePolicy(), 0.0) is None
        assert failure_lifetime([Head(404, headers)], 0.0) == 0
    with pytest.raises(InvalidDocument, match="content codings"):
        codings_of(CIMultiDict({"Content-Encoding": "identity," * MAX_CODINGS_TEXT}))


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ('ext="\\"", no-store, a="b"', {"ext", "no-store", "a"}),
        ('ext="\\\\", no-store', {"ext", "no-store"}),
        ('ext="a, no-store, b"', {"ext"}),
        ('ext="a, no-store', {"ext", "no-store"}),
        ('a="b", ext="\\", no-store', {"a", "ext", "no-store"}),
    ],
)
def test_quoted_pairs_end_no_quoted_string(said, names):
    """RFC 9110, section 5.6.4; a quote that is not closed hides nothing."""
    assert set(parse_directives(said)) == names


def test_a_value_is_read_without_its_quotes_and_pairs():
    """As the string that they stand for."""
    assert parse_directives('max-age="1\\0"') == {"max-age": "10"}


def test_no_name_of_a_charset_leaves_memory_behind():
    """Python remembers each name that it does not know; it is asked for those alone that it knows."""
    text_codec("utf-8")
    before = len(encodings._cache)
    for number in range(300):
        assert text_codec(f"c{number}" + "x" * 3_000 * (number % 2)) is None
        assert text_codec("utf" + "-" * (number % MAX_LABEL + 1) + "8") in ("utf-8", None)
        with pytest.raises(InvalidDocument):
            codings_of(CIMultiDict({"Content-Encoding": f"c{number}"}))
    assert len(encodings._cache) - before < 10


@pytest.mark.parametrize(
    ("name", "codec"),
    [("ISO_8859-1:1987", "iso8859-1"), ("UTF 8", "utf-8"), ("koi8-u", "koi8-u"), ("macintosh", "mac-roman"),
     ("iso-2022-jp", "iso2022_jp"), ("x-sjis", "cp932"), ("big5-hkscs", "big5hkscs"), ("zlib", None),
     ("punycode", None), ("utf-7", None), ("idna", None), ("undefined", None)],
)  # fmt: skip
def test_charsets_by_all_their_names(name, codec):
    """Those of Python and of the web."""
    assert text_codec(name) == codec


def test_members_of_gzip_are_counted():
    """An endless stream of empty ones is cut."""
    decoder, member = Decoder(["gzip"], 1), gzip.compress(b"", mtime=0)
    with pytest.raises(TooLarge, match="gzip members"):
        for _ in range(MAX_MEMBERS + 1):
            assert not any(decoder.feed(member))


class Arrived:
    """A body that has come already, in parts as large as the client buffers."""

    def __init__(self, body):
        self.parts = [body[at : at + (256 << 10)] for at in range(0, len(body), 256 << 10)]

    async def readany(self):
        return self.parts.pop(0) if self.parts else b""

    def at_eof(self):
        return not self.parts


@pytest.mark.parametrize("codings", ["gzip", "gzip, gzip"])
@pytest.mark.parametrize(
    "read", [lambda response: read_body(response, 1 << 20), lambda response: _read(response, bytearray())]
)
async def test_empty_members_of_gzip_leave_the_event_loop_its_turns(codings, read):
    """They have no content, and yet each takes its time; a body and an error's excerpt are read in turns."""
    body = gzip.compress(b"", mtime=0) * MAX_MEMBERS
    if codings != "gzip":
        body = gzip.compress(body, mtime=0)
    response = SimpleNamespace(
        content=Arrived(body),
        headers=CIMultiDict({"Content-Encoding": codings}),
        content_length=None,
        url=URL("http://h/"),
    )
    found, longest = await longest_turn(read(response))
    assert not found or isinstance(found, TooLarge)  # of the inner coding's content, for an excerpt
    assert longest < allowed()


@pytest.mark.parametrize("text", ["\u00e9", "\u00e9a", "% ", "\U0001f600", "%%", " \u00e9%2"])
def test_no_url_holds_up_the_event_loop(text):
    """As long as any that is taken, whatever has to be percent-encoded in it."""
    url = ("http://h/a?" + text * MAX_URL)[:MAX_URL]
    assert cpu_time(lambda: normal(url)) < allowed() / 2  # it is parsed here, and where it is requested
    assert normal(url).isascii()


async def test_no_path_holds_up_the_event_loop_that_looks_for_its_cookies():
    """A redirect may lead to a path of as many segments as a URL has characters; those of the first ones are sent."""
    cookies = Cookies(None)
    cookies.take(URL("http://h/"), ["a=1"])
    cookies.take(URL("http://h/"), ["b=2; Path=/x/y"])
    assert cpu_time(lambda: cookies.added_to({}, parse("http://h/" + "/" * (MAX_URL - 9)), own=True)) < allowed()
    assert cookies.added_to({}, parse("http://h/x/y/" + "z/" * 99), own=True) == {"Cookie": "a=1; b=2"}


def test_no_header_of_a_result_holds_up_the_event_loop():
    """What is longer than a result would take is left out before it is searched for secrets."""
    headers = CIMultiDict([("Link", "a" * LINE)] * LINES)
    secret = Fixed({}, {}, ["a-long-secret"])
    assert cpu_time(lambda: chosen(headers, ("link", "etag"), secret)) < allowed()
    assert chosen(headers, ("link",), secret) == {}
    assert chosen(CIMultiDict(Link="a" * LINE), ("link",), secret) == {"link": "a" * LINE}
