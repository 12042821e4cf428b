"""Requests by way of a proxy: a small one of the test's own, which says what it was asked and where it forwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from aiohttp import web

from models.errors import AnswerError, Denied, TimedOut, Unreachable, UpstreamError
from models.source import ApiKey, Bearer, ClientCredentials, Secret, Source, Tls
from streams.config.settings import Settings
from streams.http.client import Client, client_of
from streams.http.guard import Guard
from streams.http.policy import policy_of
from tests.unit.streams.test_client import LIMIT, LOOPBACK, ONCE, at

pytestmark = pytest.mark.slow

PATIENCE = 5.0
"""Seconds after which a test that hangs has failed."""
NAME = "upstream.example"
"""A host that only the proxy knows the way to."""
SECRET = Secret("env", "TEST_SECRET")
KEY, PASSWORD = "k3y-of-the-source", "pr0xy-password"
LOGIN = base64.b64encode(f"me:{PASSWORD}".encode()).decode()


class Asked(NamedTuple):
    """The head of a request as the proxy got it."""

    method: str
    target: str
    headers: dict[str, str]


class Proxy:
    """Forwards every request to one port of this machine, whatever its host; `answer` are bytes to give instead."""

    def __init__(self, port, login=None):
        self.port, self.login, self.answer = port, login, None
        self.asked: list[Asked] = []

    async def __call__(self, reader, writer):
        there = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            self.asked.append(Asked(method, target, headers))
            if self.login and headers.get("proxy-authorization") != f"Basic {self.login}":
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            elif self.answer is not None:
                writer.write(self.answer)
            else:
                onward, there = await asyncio.open_connection("127.0.0.1", self.port)
                await self._forward(self.asked[-1], there, writer)
                await asyncio.gather(pump(reader, there), pump(onward, writer))
        for each in (writer, there):
            if each is not None:
                each.close()

    async def _forward(self, asked, there, back):
        if asked.method == "CONNECT":
            back.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return
        parts = urlsplit(asked.target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        kept = {name: value for name, value in asked.headers.items() if not name.startswith("proxy-")}
        head = "".join(f"{name}: {value}\r\n" for name, value in (kept | {"connection": "close"}).items())
        there.write(f"{asked.method} {path} HTTP/1.1\r\n{head}\r\n".encode())


async def pump(reader, writer):
    """Carry bytes on until there are no more."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("TEST_SECRET", KEY)


@pytest.fixture
async def relay(opened):
    """Start proxies in front of a server."""

    async def start(upstream, login=None):
        proxy = Proxy(upstream.url.port, login)
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        opened.push_async_callback(server.wait_closed)
        opened.callback(server.close)
        proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy.url = f"http://{proxy.address}"
        return proxy

    return start


@pytest.fixture
async def proxy(relay, upstream):
    return await relay(upstream)


@pytest.fixture
async def client(proxy):
    """Open a client that may reach the public internet only, by way of the proxy."""
    async with Client(LIMIT, Guard(), retry=ONCE, proxy=proxy.url) as client:
        yield client


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
async def speaking(serve, authority):
    """Start servers by scheme; one of https has a certificate for the name."""

    async def start(scheme, name=NAME):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        return await serve(context if scheme == "https" else None)

    return start


@pytest.fixture
async def private(speaking):
    """Start a server that speaks TLS under the name that only the proxy knows."""
    return await speaking("https")


@pytest.fixture
def trusting(authority, tmp_path):
    """Return a source that trusts the authority of the test."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return partial(Source, "s", tls=Tls(ca=str(tmp_path / "ca.pem")), retry=ONCE)


async def ask(client, url, source=None, **options):
    policy = policy_of(source, client.policy, client.post) if source else None
    async with asyncio.timeout(PATIENCE):
        return await client.fetch("GET", url, {}, policy=policy, **options)


async def refused(client, url, error, source=None):
    """Return what is said of a request that fails; no secret is in it."""
    with pytest.raises(error) as caught:
        await ask(client, url, source)
    assert [part for part in (KEY, PASSWORD, LOGIN) if part in json.dumps(caught.value.describe())] == []
    return caught.value


async def test_a_request_goes_by_way_of_the_proxy(client, proxy, upstream):
    """The proxy gets the whole URL and finds the way; the guard does not judge where the proxy itself is."""
    source = Source("s", auth=Bearer(SECRET))
    response = await ask(client, f"http://{NAME}/a%2Fb?c=d", source)
    assert response.body.content == b"null"
    [asked] = proxy.asked
    assert (asked.method, asked.target, asked.headers["host"]) == ("GET", f"http://{NAME}/a%2Fb?c=d", NAME)
    [seen] = upstream.seen
    assert (seen.path, seen.headers["Authorization"]) == ("/a%2Fb?c=d", f"Bearer {KEY}")


async def test_tls_goes_through_the_proxy_unread(relay, private, trusting):
    """The proxy is asked for a tunnel to host and port, and sees neither path nor credentials."""
    proxy = await relay(private)
    async with Client(LIMIT, Guard(), retry=ONCE, proxy=proxy.url) as client:
        source = trusting(auth=ApiKey("query", "key", SECRET), secret_headers={"X-Own": SECRET})
        assert (await ask(client, f"https://{NAME}/path", source)).status == 200
    [asked] = proxy.asked
    assert (asked.method, asked.target) == ("CONNECT", f"{NAME}:443")
    assert (KEY in str(asked), "path" in str(asked)) == (False, False)
    [seen] = private.seen
    assert (seen.path, seen.headers["X-Own"]) == (f"/path?key={KEY}", KEY)


async def test_a_certificate_is_judged_behind_the_proxy_as_well(relay, private):
    """A tunnel to who is not trusted ends in the same error as without one, and nothing is sent."""
    proxy = await relay(private)
    async with Client(LIMIT, Guard(), retry=ONCE, proxy=proxy.url) as client:
        error = await refused(client, f"https://{NAME}/", Unreachable)
    assert str(error).startswith(f"{NAME}: TLS failed: ")
    assert private.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_login_is_for_the_proxy_alone(relay, speaking, trusting, scheme):
    """Name and password of the proxy's URL are shown to the proxy and to nobody behind it."""
    behind = await speaking(scheme)
    proxy = await relay(behind, LOGIN)
    async with Client(LIMIT, Guard(), retry=ONCE, proxy=f"http://me:{PASSWORD}@{proxy.address}") as client:
        assert (await ask(client, f"{scheme}://{NAME}/", trusting())).status == 200
    assert [asked.headers["proxy-authorization"] for asked in proxy.asked] == [f"Basic {LOGIN}"]
    [seen] = behind.seen
    assert (LOGIN in str(seen), PASSWORD in str(seen)) == (False, False)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("login", ["", f"you:{PASSWORD}@"])
async def test_a_proxy_that_does_not_know_us_is_an_error(relay, upstream, trusting, scheme, login):
    """Its status is told, and nothing of the login; nothing gets behind it."""
    proxy = await relay(upstream, LOGIN)
    async with Client(LIMIT, Guard(), retry=ONCE, proxy=f"http://{login}{proxy.address}") as client:
        error = await refused(client, f"{scheme}://{NAME}/", AnswerError, trusting())
    assert type(error) is Unreachable
    assert "answered 407" in str(error)
    assert upstream.seen == []


@pytest.mark.parametrize("status", [403, 502, 504])
async def test_a_tunnel_that_is_refused_is_unreachable(client, proxy, status):
    """What the proxy says is told as the proxy's."""
    proxy.answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    error = await refused(client, f"https://{NAME}/", Unreachable)
    assert str(error) == f"the proxy does not connect to {NAME}: it answered {status}"
    assert error.retryable


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", [b"", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 "])
async def test_a_proxy_that_speaks_nonsense_is_an_error(client, proxy, upstream, scheme, answer):
    """It hangs up or answers what is no HTTP: one of our errors, about the host that was asked for."""
    proxy.answer = answer
    error = await refused(client, f"{scheme}://{NAME}/", AnswerError)
    assert type(error) in (Unreachable, UpstreamError)
    assert NAME in str(error)
    assert upstream.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_down_is_unreachable(scheme):
    """No proxy, no request: there is no other way, and the error says what is missing."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        proxy = f"http://me:{PASSWORD}@127.0.0.1:{bound.getsockname()[1]}"
        async with Client(LIMIT, Guard(), retry=ONCE, proxy=proxy) as client:
            error = await refused(client, f"{scheme}://{NAME}/", Unreachable)
    assert (str(error), error.retryable) == (f"the proxy to {NAME} cannot be connected to", True)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_silent_is_timed_out(opened, scheme):
    """The source's time-outs hold for a proxy that takes the request, or is to make a tunnel, and says nothing."""
    silent = opened.enter_context(socket.socket())
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    source = Source(
        "s", connect_timeout=0.05, read_timeout=0.05, retry=ONCE, proxy=f"http://127.0.0.1:{silent.getsockname()[1]}"
    )
    async with Client(LIMIT, Guard(), retry=ONCE) as client:
        policy = policy_of(source, client.policy, client.post)
        with pytest.raises(TimedOut):
            await asyncio.wait_for(client.fetch("GET", f"{scheme}://{NAME}/", {}, policy=policy), 1)


ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_of_the_environment_is_never_used(monkeypatch, relay, speaking, trusting, scheme):
    """Neither for plain requests nor for sources, nor for https."""
    upstream = await speaking(scheme, "127.0.0.1")
    proxy = await relay(upstream)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, proxy.url)
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        await ask(client, at(upstream), trusting())
    assert (len(upstream.seen), proxy.asked) == (1, [])


async def test_the_environment_does_not_turn_the_setting_off(monkeypatch, client, proxy):
    """NO_PROXY is for those who take the others from there too."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    await ask(client, f"http://{NAME}/")
    assert len(proxy.asked) == 1


async def test_the_setting_is_the_worker_s(proxy, upstream):
    """MILLRACE_PROXY becomes the client's, for requests without a source too."""
    async with client_of(Settings(proxy=proxy.url)) as client:
        await ask(client, f"http://{NAME}/")
    assert (len(proxy.asked), len(upstream.seen)) == (1, 1)


async def test_a_source_s_own_proxy_stands_instead_of_the_worker_s(client, proxy, relay, upstream):
    """One proxy a request: the source's if it names one; another source beside it keeps the worker's."""
    own = await relay(upstream)
    for source in (Source("s", proxy=own.url), Source("t"), Source("s", proxy=own.url), None):
        await ask(client, f"http://{NAME}/", source)
    assert (len(own.asked), len(proxy.asked)) == (2, 2)


DENIED = ["http://10.0.0.1/", "https://192.168.0.1/", "http://127.0.0.1/", "http://[::1]/", "http://2130706433/",
          "http://169.254.169.254/latest/meta-data", f"http://{NAME}:8080/", f"http://me:pw@{NAME}/"]  # fmt: skip


@pytest.mark.parametrize("url", DENIED)
async def test_what_is_denied_is_denied_by_way_of_a_proxy(client, proxy, upstream, url):
    """A private address as it is written, a port or a login: the proxy is not even asked, at first or by redirect."""
    await refused(client, url, Denied)
    assert proxy.asked == []
    upstream.redirect("/", 302, url)
    await refused(client, f"http://{NAME}/", Denied)
    assert len(proxy.asked) == 1


async def test_an_issuer_s_private_address_is_denied_as_well(client, proxy):
    """A token endpoint is asked through the source's proxy, and judged like anything else."""
    source = Source("s", auth=ClientCredentials("http://10.0.0.1/token", "me", SECRET), retry=ONCE)
    await refused(client, f"http://{NAME}/", Denied, source)
    assert proxy.asked == []


async def test_a_token_is_fetched_through_the_source_s_proxy(client, proxy, relay, serve):
    """Where the API can only be reached through the proxy, so can its issuer."""
    upstream = await serve()

    async def issue(_):
        return web.json_response({"access_token": "token", "token_type": "bearer"})

    upstream.answers["/token"] = issue
    own = await relay(upstream)
    auth = ClientCredentials("http://issuer.example/token?x=y", "me", SECRET)
    await ask(client, f"http://{NAME}/", Source("s", auth=auth, proxy=own.url, retry=ONCE))
    assert ([urlsplit(asked.target).hostname for asked in own.asked], proxy.asked) == (["issuer.example", NAME], [])


async def test_a_redirect_goes_through_the_proxy_and_leaves_the_credentials_behind(client, proxy, upstream):
    """Elsewhere is still behind the proxy, and still elsewhere."""
    upstream.redirect("/", 302, "http://other.example/new")
    await ask(client, f"http://{NAME}/", Source("s", auth=Bearer(SECRET)))
    assert [asked.target for asked in proxy.asked] == [f"http://{NAME}/", "http://other.example/new"]
    assert [seen.headers.get("Authorization") for seen in upstream.seen] == [f"Bearer {KEY}", None]
