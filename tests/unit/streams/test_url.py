"""URLs byte for byte: what is legal is left alone, in requests and in Locations, and what the guard sees is dialled."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from agents.answer.parsed_requests import entry_key, target_tag
from models.errors import InvalidRequest
from models.request import Request
from models.url import MAX_URL, check_url
from streams.config.validators import parse_networks, parse_ports
from streams.http import url as module
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.url import normal, parse, resolve

BASE = parse("http://h/a/b?x=%7E")
ESCAPES = "sig=a%2Bb%2F%3D&n=%27x%27&p=%7E&c=%3a"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (f"http://h/x?{ESCAPES}", f"/x?{ESCAPES}"),
        (f"http://h/caf\u00e9?{ESCAPES}", f"/caf%C3%A9?{ESCAPES}"),
        ("http://h/p?", "/p?"),
        ("http://h/p?#f", "/p?"),
        ("http://h/p#f?x", "/p"),
        ("http://h", "/"),
        ("http://h?q", "/?q"),
        ("http://h/a/../b/./c", "/a/../b/./c"),
        ("http://h/%2e%2e/a//b", "/%2e%2e/a//b"),
        ("http://h/a+b;c=1,2:@!$&'()*~", "/a+b;c=1,2:@!$&'()*~"),
        ("http://h/?f[a]=b|c", "/?f[a]=b|c"),
        ("http://h/a?b?c", "/a?b?c"),
        ("http://h/100%", "/100%25"),
        ("http://h/%zz%4", "/%25zz%254"),
        ('http://h/"<>^`{}', "/%22%3C%3E%5E%60%7B%7D"),
        ("http://h/\U0001f600", "/%F0%9F%98%80"),
    ],
)
def test_only_what_is_not_legal_is_escaped(url, sent):
    """Whatever stands beside it in the URL, a legal byte and a legal escape are sent as they were written."""
    assert parse(url).raw_path_qs == sent


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (f"/x?{ESCAPES}", f"http://h/x?{ESCAPES}"),
        ("/x?%7E\udce9", "http://h/x?%7E%E9"),
        ("/\u00e9", "http://h/%C3%A9"),
        ("/a b", "http://h/a%20b"),
        ("?", "http://h/a/b?"),
        ("?q", "http://h/a/b?q"),
        ("", "http://h/a/b?x=%7E"),
        ("#f", "http://h/a/b?x=%7E"),
        ("c#f", "http://h/a/c"),
        ("../c", "http://h/c"),
        ("../../../c", "http://h/c"),
        ("./", "http://h/a/"),
        ("..", "http://h/"),
        ("a.b/..c/.d", "http://h/a/a.b/..c/.d"),
        ("/a//b/../c", "http://h/a//c"),
        ("c?y/../z", "http://h/a/c?y/../z"),
        (";c", "http://h/a/;c"),
        ("//O:80/c", "http://o/c"),
        ("https://O:443", "https://o/"),
        ("https://o/a/../b", "https://o/a/../b"),
        ("http:c", "http://h/a/c"),
        ("\\\\evil\\c", "http://h/a/%5C%5Cevil%5Cc"),
    ],
)
def test_a_location_leads_to_the_very_address_it_names(location, sent):
    """A reference is resolved by RFC 3986, section 5.2, and nothing else of it changes."""
    assert str(resolve(BASE, location)) == sent


@pytest.mark.parametrize(
    "location",
    ["//a\\@evil/", "//exa mple/", "//h:99999/", "//[::1/", "//e\udce9/", "/" + "a" * MAX_URL, "http://h\t/"],
)
def test_a_location_that_is_no_url_is_none(location):
    """What has no host that can be read, or is longer than any URL, leads nowhere."""
    with pytest.raises(ValueError, match=r"host|port|longer|URL|authority|idna"):
        resolve(BASE, location)


@pytest.mark.parametrize(
    "url",
    ["http://EXAMPLE.com/a", "HTTP://example.com/a", "http://example.com:80/a", "http://example.com/a#f",
     "http://Example.com:080/a"],
)  # fmt: skip
def test_one_document_has_one_entry_however_its_url_is_written(url):
    """Case of scheme and host, the usual port and a fragment make no other host, entry or purge."""
    assert parse(url) == URL("http://example.com/a", encoded=True)
    assert entry_key(Request(url=url)) == entry_key(Request(url="http://example.com/a"))
    assert target_tag(url) == target_tag("http://example.com/a")


@pytest.mark.parametrize(
    ("one", "other"),
    [("/p", "/p?"), ("/%7E", "/~"), ("/a", "/A"), ("/%2f", "/%2F"), ("/a/../b", "/b"), ("/?a=%2B", "/?a=+")],
)
def test_what_is_sent_differently_is_kept_apart(one, other):
    """Two URLs that reach the upstream as other bytes never share an entry."""
    assert entry_key(Request(url=f"http://h{one}")) != entry_key(Request(url=f"http://h{other}"))


def test_names_that_are_no_ascii_are_one_host_with_their_encoded_form():
    """An international name and its A-label are one host; names that only look alike to old rules are not."""
    assert normal("http://B\u00fccher.example/") == normal("http://xn--bcher-kva.example/")
    assert normal("http://stra\u00dfe.example/") != normal("http://strasse.example/")


def test_a_url_may_be_as_long_as_pre_signed_ones_are():
    """8,000 characters and more pass, up to the documented limit."""
    url = "http://h/?X-Amz-Security-Token=".ljust(8_000, "A")
    check_url(url)
    assert str(parse(url)) == url


@pytest.mark.parametrize(
    "url", ["", "x", "http:", "http:///x", "http://[]/", "ftp://h/", "http://h:65536/", "http://a b/"]
)
def test_what_is_no_url_is_refused(url):
    """Whatever its look, it ends as an invalid request, and is its own normal form."""
    with pytest.raises(InvalidRequest):
        parse(url)
    assert normal(url) == url


@given(st.text(st.characters(exclude_characters="#", exclude_categories=["Cs"])), st.text(max_size=3))
def test_the_normal_form_is_stable_and_legal(path, query):
    """Whatever the text, what is sent is legal, is left alone when it is read again, and no escape was changed."""
    sent = normal(f"http://h/{path}?{query.replace('#', '')}")
    assert normal(sent) == sent
    assert re.fullmatch(r"http://h/(?:[!$&-;=?-\[\]_a-z|~]|%[0-9A-Fa-f]{2})*", sent)
    legal = re.findall(r"%[0-9A-Fa-f]{2}", path)
    assert [each for each in re.findall(r"%[0-9A-Fa-f]{2}", sent) if each in legal] or not legal


@pytest.mark.parametrize(
    ("path", "location", "lines"),
    [
        ("/start", f"/x?{ESCAPES}".encode(), ["/start", f"/x?{ESCAPES}"]),
        ("/start", b"/x\xe9?p=%7E", ["/start", "/x%E9?p=%7E"]),
        (f"/caf\u00e9?{ESCAPES}", b"?", [f"/caf%C3%A9?{ESCAPES}", "/caf%C3%A9?"]),
        ("/p?", b"next?#f", ["/p?", "/next?"]),
    ],
)
@pytest.mark.usefixtures("way")
async def test_the_wire_sees_the_bytes_that_were_meant(path, location, lines):
    """A real server gets request targets as they were written, in the request and after its own redirect."""
    asked = []

    async def talk(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        answer = b"302 Found\r\nLocation: " + location if len(asked) == 1 else b"200 OK"
        writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(1_000, Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))) as client:
        await client.fetch("GET", f"http://127.0.0.1:{port}{path}", {})
    assert asked == lines


@given(
    st.sampled_from(["http", "https"]), st.text("a1.-", min_size=1, max_size=5),
    st.sampled_from(["80", "443", "080", "0", "", "65535", "65536"]) | st.text("0123456789", max_size=5),
    st.text("ab/.?%41-", max_size=8),
)  # fmt: skip
def test_what_needs_no_look_is_as_it_would_be_taken_apart(scheme, host, port, rest):
    """A port that is the scheme's own, or none, is never taken for a usual one."""
    url = f"{scheme}://{host}:{port}/{rest}"
    if module._USUAL.fullmatch(url):
        assert url == str(module._built(module._split(url)))


def test_a_port_of_its_own_is_usual():
    """As tests, and services within a cluster, have them."""
    assert module._USUAL.fullmatch("http://h.example:8080/a")
    assert not module._USUAL.fullmatch("http://h.example:80/a")
