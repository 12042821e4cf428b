"""deploy/nginx in a real nginx, run without root: what it does for the web view, and what it lets nobody do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from agents.testing.broker import free_port
from streams.web.server import Server
from tests.integration.nginx import PATIENCE, Nginx, program

PAGE = "<p>what every page says</p>" * 1_000


class Backend:
    """What stands behind nginx here: pages, and events that a test hands out one by one."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.app = web.Application()
        self.app.router.add_get("/events", self._events)
        self.app.router.add_route("*", "/{path:.*}", self._page)

    async def _page(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        self.headers = dict(request.headers)
        return web.Response(text=PAGE, content_type="text/html")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(await self.events.get())
        return response

    async def __aenter__(self) -> Backend:
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = "127.0.0.1:%d" % self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as opened:
        yield opened


@pytest.fixture
async def nginx(backend: Backend) -> AsyncIterator[Nginx]:
    async with Nginx(backend.address) as opened:
        yield opened


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that takes what is compressed as it comes."""
    limit = aiohttp.ClientTimeout(PATIENCE)
    gzip = {"Accept-Encoding": "gzip"}
    async with aiohttp.ClientSession(auto_decompress=False, headers=gzip, timeout=limit) as session:
        yield session


async def test_events_come_one_by_one(nginx: Nginx, backend: Backend, browser: aiohttp.ClientSession) -> None:
    """Each event, however small, is at the browser before the next is made: neither buffered nor compressed."""
    async with browser.get(nginx.url + "/events") as response:
        assert "Content-Encoding" not in response.headers
        for number in range(3):
            backend.events.put_nowait(b"data: %d\n\n" % number)
            assert await response.content.readuntil(b"\n\n") == b"data: %d\n\n" % number


async def test_pages_are_compressed(nginx: Nginx, browser: aiohttp.ClientSession) -> None:
    """A page goes out in gzip to who takes that, as it is to who does not."""
    async with browser.get(nginx.url + "/") as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(await response.read()) < len(PAGE) / 10
    async with browser.get(nginx.url + "/", headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers
        assert await response.text() == PAGE


@pytest.mark.parametrize(("method", "most"), [("GET", 200), ("POST", 50)])
async def test_who_asks_too_often_has_to_wait(nginx: Nginx, backend: Backend, browser: aiohttp.ClientSession,
                                              method: str, most: int) -> None:  # fmt: skip
    """A burst goes through, what is beyond it gets 429 and does not reach a worker; changes are rationed more."""

    async def ask() -> int:
        async with browser.request(method, nginx.url + "/api/x") as response:
            return response.status

    statuses = Counter(await asyncio.gather(*(ask() for _ in range(most))))
    assert set(statuses) == {200, 429}
    assert statuses[200] == backend.asked["/api/x"] >= (100 if method == "GET" else 20)


async def test_streams_of_one_address_are_few(nginx: Nginx, backend: Backend, browser: aiohttp.ClientSession) -> None:
    """Twenty streams an address are served, the next is refused."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            response = await stack.enter_async_context(browser.get(nginx.url + "/events"))
            assert response.status == 200
        refused = await stack.enter_async_context(browser.get(nginx.url + "/events"))
        assert refused.status == 429


async def test_workers_learn_who_asked(nginx: Nginx, backend: Backend, browser: aiohttp.ClientSession) -> None:
    """The browser's Host reaches the worker, and its address as nginx sees it, not as the browser says."""
    forged = {"Host": "millrace.example", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    async with browser.get(nginx.url + "/", headers=forged) as response:
        assert response.status == 200
    names = "Host", "X-Forwarded-For", "X-Forwarded-Proto"
    assert [backend.headers[name] for name in names] == ["millrace.example", "127.0.0.1", "http"]


async def test_what_is_for_others_stays_inside(nginx: Nginx, backend: Backend, browser: aiohttp.ClientSession) -> None:
    """Nobody outside reads /metrics or what workers tell each other, nor sends a body larger than any request."""
    for path in ("/metrics", "/api/held/answers?partitions=0&only=keys", "/api//held/answers", "/api/%68eld/answers"):
        async with browser.get(URL(nginx.url + path, encoded=True)) as response:
            assert response.status == 404
    async with browser.post(nginx.url + "/api/requests", data=io.BytesIO(bytes(2 << 20 | 1))) as response:
        assert response.status == 413
    assert not backend.asked


async def test_a_dead_worker_is_passed_over(backend: Backend, browser: aiohttp.ClientSession) -> None:
    """While one of two workers is away, every page is answered by the other."""
    async with Nginx(f"127.0.0.1:{free_port()}", backend.address) as nginx:
        for _ in range(4):
            async with browser.get(nginx.url + "/") as response:
                assert response.status == 200
    assert backend.asked["/"] == 4


async def test_what_a_worker_took_is_not_sent_again(backend: Backend, browser: aiohttp.ClientSession) -> None:
    """A worker that dies over a change gets the browser a 502: another worker does not do it a second time."""
    taken: list[bytes] = []

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readline())
        writer.close()

    dying = await asyncio.start_server(die, "127.0.0.1", 0)
    async with dying, Nginx("127.0.0.1:%d" % dying.sockets[0].getsockname()[1], backend.address) as nginx:
        async with browser.post(nginx.url + "/api/requests") as response:
            assert response.status == 502
        assert taken == [b"POST /api/requests HTTP/1.1\r\n"]
        assert not backend.asked


async def test_tls_by_example(backend: Backend, browser: aiohttp.ClientSession) -> None:
    """The example serves the same pages over TLS and HTTP/2, and tells browsers to keep to it."""
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    certificate = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with Nginx(backend.address, certificate=certificate, key=own.private_key_pem.bytes()) as nginx:
        async with browser.get(nginx.tls_url + "/", ssl=context) as response:
            assert response.status == 200
            assert "max-age" in response.headers["Strict-Transport-Security"]
        assert backend.headers["X-Forwarded-Proto"] == "https"
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, port = nginx.tls_url.removeprefix("https://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.transport.abort()  # not closed in order: the settings of HTTP/2 are on their way


async def test_a_login_before_it_and_the_token_behind_it() -> None:
    """The login is in Authorization; the worker's token has a header of its own, and without it nothing is changed."""

    async def change(_: web.Request) -> web.Response:
        return web.Response(text="changed")

    login = {"Authorization": "Basic " + base64.b64encode(b"ada:counts").decode()}
    async with (
        Server("127.0.0.1", 0, dict, [web.post("/api/requests", change)], token="t0ken") as worker,
        Nginx(f"127.0.0.1:{worker.port}", user="ada:counts") as nginx,
        aiohttp.ClientSession() as client,
    ):
        for headers, status in (
            ({"X-Millrace-Token": "t0ken"}, 401),
            ({"Authorization": "Bearer t0ken"}, 401),
            (login, 401),
            (login | {"X-Millrace-Token": "wrong"}, 401),
            (login | {"X-Millrace-Token": "t0ken"}, 200),
        ):
            async with client.post(nginx.url + "/api/requests", headers=headers) as response:
                assert (response.status, headers) == (status, headers)
        async with client.get(nginx.url + "/livez") as response:
            assert response.status == 401


async def test_the_pages_of_docs_show_what_nginx_takes(tmp_path: Path) -> None:
    """The blocks of the page about logins are a configuration that nginx accepts, each file where it says."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "login-proxy.md").read_text()
    server, shared = re.findall(r"^```nginx\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    certificate = trustme.CA().issue_cert("localhost")
    (tmp_path / "tls.crt").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    (tmp_path / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    (tmp_path / "proxy.conf").write_text(shared.replace("millrace.millrace.svc.cluster.local", "127.0.0.1"))
    for place in ("/etc/nginx/tls/", "/etc/nginx/millrace/"):
        server = server.replace(place, f"{tmp_path}/")
    folders = "".join(f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {folders}\n{server}}}\n"
    )
    found = program()
    if found is None:
        pytest.skip("needs nginx on PATH")
    nginx = await asyncio.create_subprocess_exec(found, "-t", "-c", str(whole), stderr=asyncio.subprocess.PIPE)
    _, told = await nginx.communicate()
    assert nginx.returncode == 0, told.decode()
