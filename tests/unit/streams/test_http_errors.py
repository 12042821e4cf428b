"""What an error says of an answer, and of how often was asked."""

from __future__ import annotations

import time

import pytest

from models.errors import Denied, InvalidDocument, TooLarge, UpstreamError
from models.source import Bearer, Secret, Source
from streams.http.client import Client
from streams.http.policy import policy_of
from tests.unit.streams.test_client import LIMIT, LOOPBACK
from tests.unit.streams.test_sent_once import Raw, ask, refused

TOKEN = "sekrit-token-123"


@pytest.fixture
async def client(opened):
    return await opened.enter_async_context(Client(LIMIT, LOOPBACK))


@pytest.fixture
def raw(opened, client):
    """Start raw servers, which end after the client."""

    async def start(*answers):
        return await Raw(*answers).start(opened)

    return start


@pytest.mark.parametrize("field", ["Content-Encoding", "Transfer-Encoding"])
async def test_no_message_quotes_a_secret(client, raw, monkeypatch, field):
    """A coding that is called as the source's token is not told."""
    monkeypatch.setenv("TOKEN", TOKEN)
    policy = policy_of(Source("s", auth=Bearer(Secret("env", "TOKEN"))), client.policy, client.post)
    end = ", chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" if field == "Transfer-Encoding" else "\r\nContent-Length: 1\r\n\r\nx"
    server = await raw(f"HTTP/1.1 200 OK\r\n{field}: {TOKEN}{end}".encode())
    error = await refused(client, server.url, error=InvalidDocument, policy=policy)
    assert "repeats the source's credentials" in str(error)
    assert TOKEN not in str(error)


async def test_a_pause_past_the_deadline_leaves_the_answer_that_asked_for_it(client, raw):
    """A 429 whose Retry-After goes past the deadline is the error, with its status and body, and one attempt."""
    server = await raw(b"HTTP/1.1 429 Slow\r\nRetry-After: 100\r\nContent-Length: 8\r\n\r\ntoo much")
    error = await refused(client, server.url, error=UpstreamError, deadline=time.monotonic() + 3.0)
    assert (error.status, error.body, error.attempts, len(server.seen)) == (429, "too much", 1, 1)
    again = await refused(client, server.url, deadline=time.monotonic() + 1.0)
    assert (again.outcome, again.attempts, len(server.seen)) == ("overloaded", None, 1)


async def test_what_is_refused_before_it_is_sent_was_not_tried(client):
    """A URL that is denied says no attempts."""
    assert (await refused(client, "http://127.0.0.1:0/", error=Denied)).attempts is None


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://127.1/", "redirect"),
        ("", "answered 302 with an empty Location"),
        ("http:///x", "redirected to a URL without a host"),
    ],
)
async def test_a_redirect_that_cannot_be_followed_is_named_as_that(client, raw, location, words):
    """The fault is the Location's, not the URL's that was asked for."""
    server = await raw(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    if "127.1" in location:
        location = server.url.replace("127.0.0.1", "127.1")
        server.answers = [f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()]
    error = await refused(client, server.url, error=UpstreamError)
    assert (error.status, words in str(error), len(server.seen)) == (302, True, 1)


async def test_an_answer_that_is_not_taken_has_its_status(client, raw):
    """A body that is too large or cannot be decoded came with a status."""
    server = await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nx")
    assert (await refused(client, server.url, error=TooLarge)).status == 200
    server = await raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx")
    assert (await refused(client, server.url, error=InvalidDocument)).status == 200


async def test_an_answer_is_still_an_answer(client, raw):
    """What is well is not touched."""
    server = await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await ask(client, server.url)).body.content == b"ok"
