"""What results carry of an upstream's own words: the beginning of an error's body, and headers that a source names."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest
from aiohttp import web

from models.documents import Body
from models.errors import TooLarge, UpstreamError
from models.source import Bearer, Retries, Secret, Source
from streams.http.client import Client
from streams.http.excerpt import MAX_EXCERPT, MAX_READ, PATIENCE, excerpt
from streams.http.policy import policy_of
from tests.unit.streams.test_client import LIMIT, LOOPBACK, at

KEY = 'k3y/with+odd=chars&"'
PROBLEM = '{"type":"about:blank","title":"Unprocessable","detail":"amount müst be positive"}'


@pytest.fixture
async def client(upstream, monkeypatch):
    monkeypatch.setenv("TEST_SECRET", KEY)
    async with Client(LIMIT, LOOPBACK, retry=Retries(attempts=2, first_pause=0.0)) as client:
        yield client


def policy(client, **source):
    return policy_of(Source("s", retry=client.policy.retry, **source), client.policy, client.post)


def secretive(client, **source):
    return policy(client, auth=Bearer(Secret("env", "TEST_SECRET")), **source)


async def failure(client, url, error=UpstreamError, method="GET", **options):
    with pytest.raises(error) as caught:
        await client.fetch(method, str(url), {}, **options)
    return caught.value


@pytest.mark.parametrize("status", [400, 404, 422, 500, 503])
async def test_a_problem_is_told_in_the_upstream_s_words(client, upstream, status):
    """Problem details reach the error as they came, of a status that is final and of the last of several tries."""
    headers = {"Content-Type": "application/problem+json; charset=ISO-8859-1"}
    upstream.answers["/"] = {"status": status, "body": PROBLEM.encode(), "headers": headers}
    error = await failure(client, at(upstream))
    assert (error.body, error.body_truncated) == (PROBLEM, False)
    assert error.describe()["body"] == PROBLEM
    assert "body_truncated" not in error.describe()


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (gzip.compress(b"packed", mtime=0), {"Content-Encoding": "gzip"}, "packed"),
        (gzip.compress(b"packed", mtime=0)[:-4], {"Content-Encoding": "gzip"}, "packed"),
        ("Zoë".encode("latin-1"), {"Content-Type": "text/plain; charset=ISO-8859-1"}, "Zoë"),
        ("Zoë".encode("utf-16"), {"Content-Type": "text/plain; charset=utf-16"}, "Zoë"),
        ("Zoë".encode("latin-1"), {"Content-Type": "text/plain"}, "Zo\ufffd"),
        ("Zoë".encode(), {"Content-Type": "text/plain; charset=no-such"}, "Zoë"),
        ("<meta charset=latin1>Zoë".encode("latin-1"), {"Content-Type": "text/html"}, "<meta charset=latin1>Zoë"),
        (b"", {}, None),
        (b" \r\n", {}, None),
        (b"\x89PNG\r\n\0\0\0\rIHDR", {"Content-Type": "image/png"}, None),
        (b"x", {"Content-Encoding": "br"}, None),
        (b"not gzip", {"Content-Encoding": "gzip"}, None),
    ],
)
async def test_a_body_is_told_decoded(client, upstream, body, headers, told):
    """Content coding and charset are undone; what is no text is left out, and the status stands whatever it is."""
    upstream.answers["/"] = {"status": 422, "body": body, "headers": headers}
    error = await failure(client, at(upstream))
    assert (error.status, error.body) == (422, told)


@pytest.mark.parametrize("size", [MAX_EXCERPT, MAX_EXCERPT + 1, MAX_READ, MAX_READ + 1, 5_000_000])
async def test_a_long_body_is_cut_and_marked(client, upstream, size):
    """4 KiB are told, whole characters only, and whether there was more; the rest is not read."""
    upstream.answers["/"] = {"status": 422, "body": b"x" * size}
    error = await failure(client, at(upstream))
    assert (error.body, error.body_truncated) == ("x" * MAX_EXCERPT, size > MAX_EXCERPT)


@pytest.mark.parametrize("text", ["é" * 4_096, "x" + "é" * 4_096, "x" + "😀" * 4_096])
def test_a_cut_ends_with_a_character(text):
    """No half of a character is told, whatever its width."""
    told, cut = excerpt(Body(text.encode(), "text/plain"))
    assert (cut, text.startswith(told), "\ufffd" in told) == (True, True, False)
    assert MAX_EXCERPT - 4 < len(told.encode()) <= MAX_EXCERPT


@pytest.mark.parametrize(
    "body",
    [
        f"key {KEY} is wrong",
        json.dumps({"key": KEY}),
        "x" * (MAX_EXCERPT - 8) + KEY + "x" * 9_999,
        f"<p>{KEY}</p>".replace("&", "&amp;"),
    ],
)
@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_body_that_tells_a_secret_is_left_out(client, upstream, body, coding):
    """However it is written, and also where the cut goes through it; the status is told as ever."""
    content = gzip.compress(body.encode(), mtime=0) if coding else body.encode()
    upstream.answers["/"] = {"status": 403, "body": content, "headers": {"Content-Encoding": coding} if coding else {}}
    error = await failure(client, at(upstream), policy=secretive(client))
    assert (error.status, error.body) == (403, None)
    assert (await failure(client, at(upstream), policy=policy(client))).body is not None


@pytest.mark.slow
async def test_a_body_that_does_not_come_holds_nothing_up(client, upstream):
    """A retry follows at once, a deadline ends in the status seen; what came is told, but of a secret nothing."""

    async def drip(request):
        response = web.StreamResponse(status=int(request.query["status"]))
        await response.prepare(request)
        await response.write(b"so far")
        await asyncio.sleep(9)
        return response

    upstream.answers["/"] = drip
    began = time.monotonic()
    error = await failure(client, at(upstream, "/?status=503"))
    assert (error.status, error.body, error.body_truncated, error.attempts) == (503, "so far", True, 2)
    assert time.monotonic() - began < PATIENCE
    error = await failure(client, at(upstream, "/?status=422"), deadline=time.monotonic() + 0.2)
    assert (error.status, error.body) == (422, "so far")
    assert time.monotonic() - began < 1 + PATIENCE
    error = await failure(
        client, at(upstream, "/?status=422"), policy=secretive(client), deadline=time.monotonic() + 0.2
    )
    assert (error.status, error.body) == (422, None)


async def test_a_body_that_breaks_off_leaves_the_status_that_came(client, speak):
    """Half a body is told as half; it makes no other error of a 422."""
    error = await failure(client, await speak(b"HTTP/1.1 422 No\r\nContent-Length: 99\r\n\r\nhalf"))
    assert (error.status, error.body, error.body_truncated) == (422, "half", True)


async def test_an_error_s_body_leaves_the_connection_as_it_was(client, upstream):
    """Read to its end, it can be used again."""
    peers = []

    async def answer(request):
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(status=422, text="no")

    upstream.answers["/"] = answer
    for _ in range(3):
        await failure(client, at(upstream))
    assert len(set(peers)) == 1


async def test_head_has_no_body_to_tell(client, upstream):
    """The length that a HEAD answer declares is waited for in no error either."""
    upstream.answers["/"] = {"status": 404, "headers": {"Content-Length": "99999"}}
    assert (await failure(client, at(upstream), method="HEAD")).body is None


# -- headers


async def test_an_error_has_the_headers_that_its_source_names(client, upstream):
    """Those that came, in lower case, several joined; of a secret none; and none where no source asks."""

    async def answer(_):
        response = web.Response(status=422, headers={"X-Request-Id": "r1", "X-Echo": f"was {KEY}", "X-Other": "1"})
        response.headers.add("Warning", "a")
        response.headers.add("Warning", "b")
        return response

    upstream.answers["/"] = answer
    names = ("x-request-id", "warning", "x-echo", "etag")
    error = await failure(client, at(upstream), policy=secretive(client, response_headers=names))
    assert error.headers == {"x-request-id": "r1", "warning": "a, b"}
    assert (await failure(client, at(upstream), policy=secretive(client))).headers is None


async def test_a_body_that_is_too_large_still_has_headers(client, upstream):
    """Every error after an answer's head has them."""
    upstream.answers["/"] = {"body": b"x" * 100, "headers": {"ETag": '"1"'}}
    error = await failure(
        client, at(upstream), TooLarge, policy=policy(client, max_bytes=10, response_headers=("etag",))
    )
    assert error.headers == {"etag": '"1"'}


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("media_type", ["text/plain", "application/problem+json"])
def test_an_excerpt_of_what_names_no_charset(codec, media_type):
    """By its byte order mark, or the zeros that it begins with."""
    assert excerpt(Body(PROBLEM.encode(codec), media_type, None)) == (PROBLEM, False)


@pytest.mark.parametrize(
    ("content", "media_type", "charset", "text"),
    [
        ('{"t":"\u00e9"}'.encode("latin-1"), "application/problem+json", "iso-8859-1", '{"t":"\u00e9"}'),
        ('{"t":"\u2460"}'.encode("cp932"), "application/json", "Shift_JIS", '{"t":"\u2460"}'),
        ('{"t":"\u00e9"}'.encode(), "application/json", "iso-8859-1", '{"t":"\u00e9"}'),
        ('{"t":"\u00e9"}'.encode("latin-1"), "application/json", None, '{"t":"\ufffd"}'),
        ("<meta charset=latin1>Zo\u00eb".encode("latin-1"), "text/html", "foo", "<meta charset=latin1>Zo\u00eb"),
        ("\u2460".encode("cp932"), "text/plain", "shift_jis", "\u2460"),
    ],
)
def test_an_excerpt_is_read_as_a_document_would_be(content, media_type, charset, text):
    """JSON by its charset only if it is not UTF-8, HTML by its own where that is none, labels as on the web."""
    assert excerpt(Body(content, media_type, charset)) == (text, False)


def test_json_whose_last_character_is_cut_is_still_utf8():
    """A character of which the excerpt has the beginning is no reason to read it by another charset."""
    content = ('{"t":"' + "\u00e9" * 3 * MAX_EXCERPT).encode()
    text, truncated = excerpt(Body(content, "application/json", "iso-8859-1"))
    assert (set(text[6:]), truncated) == ({"\u00e9"}, True)
