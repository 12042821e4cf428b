"""The web's rules, each on a real server: who may look, who may change something, by which name, and what a browser may
do with an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from contextlib import suppress

import pytest
from aiohttp import web

from models.errors import SettingsError
from streams.config.settings import Settings
from streams.web import connection
from streams.web.responses import answer_rows, read_json
from streams.web.security import HEADERS, no_time_limit
from streams.web.server import MAX_BODY, Server

TOKEN = "a-töken"


async def _thing(request):
    return await answer_rows(request, {"rows": []}, ("a",))


async def _change(request):
    return web.Response(text=str(len(await read_json(request))))


async def _fault(_):
    raise RuntimeError("s3cret of the inside")


async def _slow(_):
    await asyncio.sleep(30)


async def _wait(_):
    await asyncio.sleep(0.3)
    return web.Response(text="waited")


async def _large(_):
    return web.Response(body=b"x" * (32 << 20))


async def _stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: x\n\n")
    return response


ROUTES = [
    web.get("/thing", _thing),
    web.post("/thing", _change),
    web.get("/metrics", _thing),
    web.get("/fault", _fault),
    web.get("/slow", _slow),
    web.get("/unhurried", no_time_limit(_wait)),
    web.get("/large", _large),
    web.get("/stream", _stream),
]


@pytest.fixture
async def server():
    async with Server("127.0.0.1", 0, dict, ROUTES, token=TOKEN, names={"millrace.example"}) as opened:
        yield opened


async def raw(server, head, body=b"", *, host="127.0.0.1"):
    """Send bytes as they are; returns status, headers (lower case) and body of the first answer."""
    reader, writer = await asyncio.open_connection(host, server.port)
    try:
        writer.write(head + b"\r\n\r\n" + body)
        async with asyncio.timeout(10):
            answered = await reader.read()
    finally:
        writer.close()
    top, _, rest = answered.partition(b"\r\n\r\n")
    line, *lines = top.decode().split("\r\n")
    headers = {name.lower(): text for name, _, text in (each.partition(": ") for each in lines)}
    return int(line.split()[1]), headers, rest


async def ask(server, path="/thing", *headers, method="GET", name="127.0.0.1", body=b""):
    lines = [
        f"{method} {path} HTTP/1.1",
        *([f"Host: {name}"] if name is not None else []),
        "Connection: close",
        *headers,
    ]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return await raw(server, "\r\n".join(lines).encode(), body)


def problem(answered):
    status, headers, body = answered
    assert headers["content-type"] == "application/problem+json"
    told = json.loads(body)
    assert told["status"] == status
    assert {"title", "detail"} <= told.keys()
    return status, told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "worker-1", "", "127.0.0.1.example"])
def test_other_addresses_need_a_token(host):
    """Bound to what other machines may reach, without a token, the worker refuses to start and says what to do."""
    with pytest.raises(SettingsError, match=r"MILLRACE_WEB_HOST.*MILLRACE_WEB_TOKEN.*127\.0\.0\.1"):
        Server(host, 0, dict)
    Server(host, 0, dict, token="t")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_needs_none(host):
    """What only this machine reaches may go without."""
    Server(host, 0, dict)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_everybody_may_look(server, method):
    """GET and HEAD need no token; HEAD has the same headers and no body."""
    status, headers, body = await ask(server, method=method)
    assert (status, headers["content-length"], body == b"") == (200, "12", method == "HEAD")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"])
async def test_nothing_else_goes_without_the_token(server, method):
    """Any other method gets 401 without it, also where it would not be taken anyway."""
    status, told = problem(await ask(server, method=method))
    assert (status, told["title"]) in {(401, "Unauthorized"), (400, "Bad Request")}


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN}x",
    "Bearer a-tken",
    f"Bearer  {TOKEN}",
    "Bearer \xff",
]


@pytest.mark.parametrize("given", WRONG)
async def test_a_wrong_token_is_none(server, given):
    """Whatever is not exactly `Bearer` and the token gets 401 and is told how to do it."""
    answered = await ask(server, "/thing", f"Authorization: {given}", method="POST")
    assert problem(answered)[0] == 401
    assert answered[1]["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("way", ["?token={}", "?access_token={}", "Cookie: token={}", "X-Api-Key: {}"])
async def test_the_token_comes_in_one_place(server, way):
    """Not in the URL, where it would be logged, and not in a cookie, which a browser sends by itself."""
    text = way.format("a-token")
    path, headers = ("/thing" + text, []) if text.startswith("?") else ("/thing", [text])
    assert (await ask(server, path, *headers, method="POST"))[0] == 401


async def test_the_right_token_is_taken(server):
    """With it the change is made; the scheme's case does not matter (RFC 9110, section 11.1)."""
    for scheme in ("Bearer", "bearer"):
        headers = f"Authorization: {scheme} {TOKEN}", "Content-Type: application/json"
        assert (await ask(server, "/thing", *headers, method="POST", body=b"{}"))[::2] == (200, b"2")


async def test_one_right_token_is_enough(server):
    """The document names two places for it, either will do: a wrong one in the other harms nothing."""
    for own, bearer in ((TOKEN, "wrong"), ("wrong", TOKEN), (TOKEN, TOKEN)):
        headers = f"X-Millrace-Token: {own}", f"Authorization: Bearer {bearer}", "Content-Type: application/json"
        assert (await ask(server, "/thing", *headers, method="POST", body=b"{}"))[0] == 200


@pytest.mark.parametrize("login", ["", "Authorization: Basic YTpi", "Authorization: Bearer wrong"])
async def test_the_token_has_a_header_of_its_own(server, login):
    """Where a proxy's login is in Authorization: the token comes beside it, and a wrong one is refused."""
    for given, status in ((TOKEN, 200), (TOKEN + "x", 401), ("", 401), (f"Bearer {TOKEN}", 401), ("\xff", 401)):
        headers = [each for each in (login, f"X-Millrace-Token: {given}", "Content-Type: application/json") if each]
        assert (await ask(server, "/thing", *headers, method="POST", body=b"{}"))[0] == status


async def test_the_token_is_compared_in_constant_time(server, monkeypatch):
    """It is hmac.compare_digest that says yes or no, on the whole of both."""
    seen = []
    monkeypatch.setattr("streams.web.security.hmac.compare_digest", lambda *pair: seen.append(pair) or False)
    assert (await ask(server, "/thing", "Authorization: Bearer x", method="POST"))[0] == 401
    assert seen == [(b"x", TOKEN.encode())]


async def test_without_a_token_nothing_can_be_changed():
    """Where none is set, none is right, the empty one neither."""
    async with Server("127.0.0.1", 0, dict, ROUTES) as server:
        status, told = problem(await ask(server, "/thing", "Authorization: Bearer ", method="POST"))
        assert status == 403
        assert "MILLRACE_WEB_TOKEN" in told["detail"]


OURS = ["127.0.0.1", "127.0.0.1:6066", "localhost", "LOCALHOST:1", "localhost.", "[::1]", "[::1]:80", "127.9.9.9",
        "millrace.example", "Millrace.Example:443", "millrace.example."]  # fmt: skip
THEIRS = ["evil.example", "millrace.example.evil.example", "evil.example:127", "127.0.0.1.evil.example", "192.0.2.1",
          "0.0.0.0", "[::2]", "", "localhost:x", "localhost evil.example", "user@localhost", "localhost/",
          "local\thost", "2130706433", "0x7f000001", "127.1", "loc\xe4lhost", "[::1", "localhost,evil.example",
          "[::ffff:192.0.2.1]"]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
async def test_a_name_of_ours_is_answered(server, name):
    """Loopback names, those of MILLRACE_WEB_HOSTS, in any case, with any port."""
    assert (await ask(server, name=name))[0] == 200


@pytest.mark.parametrize("name", THEIRS)
async def test_another_name_is_not(server, name):
    """Asked by any other name, as a page whose name was turned to us does, it answers 421 and nothing else."""
    status, told = problem(await ask(server, name=name))
    assert status in (421, 400)
    assert "rows" not in told


async def test_one_name_only(server):
    """No Host, two of them, or a target that names another: each is 421 or no HTTP at all."""
    assert (await ask(server, name=None))[0] in (400, 421)
    assert (await ask(server, "/thing", "Host: evil.example"))[0] in (400, 421)
    assert (await ask(server, "http://evil.example/thing"))[0] == 421
    assert (await ask(server, "http://localhost/thing"))[0] == 200


async def test_the_token_does_not_open_other_names(server):
    """The name is judged before the token."""
    assert (await ask(server, "/thing", f"Authorization: Bearer {TOKEN}", method="POST", name="evil.example"))[0] == 421


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_answer_by_any_name(server, path):
    """Kubelets and Prometheus ask by address; with a query too, but no path beside it."""
    assert (await ask(server, path + "?verbose", name="10.1.2.3:6066"))[0] == 200
    assert (await ask(server, path + "/../thing", name="10.1.2.3:6066"))[0] == 421
    assert (await ask(server, "/" + path, name="10.1.2.3:6066"))[0] == 421


async def test_the_address_that_was_dialled_is_ours():
    """Bound to every address, the one that the connection came to is a name of ours, another one is not."""
    own = socket.gethostbyname(socket.gethostname())
    async with Server("0.0.0.0", 0, dict, ROUTES, token=TOKEN) as server:
        top = b"GET /thing HTTP/1.1\r\nConnection: close\r\nHost: "
        assert (await raw(server, top + own.encode(), host=own))[0] == 200
        assert (await raw(server, top + b"192.0.2.1", host=own))[0] == 421
        assert (await raw(server, top + b"0.0.0.0", host=own))[0] == 421


async def test_a_client_that_has_gone_is_no_internal_error(caplog):
    """What is streamed to a connection that its client has closed is dropped: the log asks nobody to report a fault."""
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def late(request):
        asked.set()
        while not request.transport.is_closing():
            await asyncio.sleep(0)
        try:
            return await _stream(request)
        finally:
            dropped.set()

    async with Server("127.0.0.1", 0, dict, [web.get("/late", late)], token=TOKEN) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /late HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.wait_for(asked.wait(), 10)
        writer.transport.abort()
        await asyncio.wait_for(dropped.wait(), 10)
    assert "internal error" not in caplog.text
    assert not caplog.records


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
async def test_one_setting_listens_on_both_families():
    """`*` is asked at IPv4 and IPv6 alike, on one port."""
    top = b"GET /thing HTTP/1.1\r\nConnection: close\r\nHost: "
    async with Server("*", 0, dict, ROUTES, token=TOKEN) as server:
        assert (await raw(server, top + f"[::1]:{server.port}".encode(), host="::1"))[0] == 200
        assert (await raw(server, top + b"127.0.0.1", host="127.0.0.1"))[0] == 200
        assert (await raw(server, top + b"192.0.2.1", host="127.0.0.1"))[0] == 421


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "::"])
async def test_an_address_of_one_family_is_that_familys_alone(host):
    """The same port of IPv4 stays somebody else's."""
    top = b"GET /thing HTTP/1.1\r\nConnection: close\r\nHost: "
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with Server(host, taken.getsockname()[1], dict, ROUTES, token=TOKEN) as server:
            assert (await raw(server, top + f"[::1]:{server.port}".encode(), host="::1"))[0] == 200
            assert (await raw(server, top + b"[0:0::0:1]", host="::1"))[0] == 200
            assert (await raw(server, top + b"[2001:db8::1]", host="::1"))[0] == 421


async def test_everywhere_is_ipv4_where_there_is_no_ipv6(monkeypatch):
    """On a machine without IPv6, `*` listens all the same."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with Server("*", 0, dict, ROUTES, token=TOKEN) as server:
        assert (await ask(server, name="127.0.0.1"))[0] == 200


async def test_a_port_that_is_taken_is_told_in_brackets():
    """What cannot be listened on is named as a URL has it, of both families too."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        for host in ("::1", "*"):
            with pytest.raises(SettingsError, match="MILLRACE_WEB_PORT: cannot listen on"):
                async with Server(host, port, dict, token=TOKEN):
                    pass


async def test_bound_everywhere_the_machines_name_is_ours():
    """It is what the worker's record says when no MILLRACE_WEB_URL is set, and so what other workers ask by."""
    names = Settings(web_host="0.0.0.0").web_names()
    async with Server("0.0.0.0", 0, dict, ROUTES, token=TOKEN, names=names) as server:
        assert (await ask(server, name=f"{socket.gethostname()}:1"))[0] == 200


async def test_addresses_may_be_names_too():
    """MILLRACE_WEB_HOSTS, and the host of MILLRACE_WEB_URL, may be addresses, of either family."""
    names = Settings(web_hosts=("192.0.2.7",), web_url="http://[2001:db8::1]:6066").web_names()
    async with Server("127.0.0.1", 0, dict, ROUTES, names=names) as server:
        for name, status in (("192.0.2.7:1", 200), ("[2001:db8::1]:6066", 200), ("[2001:db8::2]", 421)):
            assert (await ask(server, name=name))[0] == status


@pytest.mark.parametrize("path", ["/thing", "/nothing", "/fault", "/stream", "/livez"])
async def test_every_answer_has_the_headers(server, path):
    """CSP, nosniff, no-referrer and the others are on answers, errors, faults, streams and probes alike."""
    _, headers, _ = await ask(server, path)
    for name, content in HEADERS.items():
        assert headers[name.lower()] == content
    assert headers["server"] == "millrace"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_no_other_origin_may_read(server, method):
    """There is no CORS header, whoever asks: not for a read, and not before a change."""
    asking = "Origin: http://evil.example", "Access-Control-Request-Method: POST"
    _, headers, _ = await ask(server, "/thing", *asking, method=method)
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/nothing", "GET", 404), ("/thing", "DELETE", 405), ("/fault", "GET", 500), ("/<b>", "GET", 404)],
)
async def test_every_error_is_problem_details(server, path, method, status):
    """404, 405 (with Allow) and a fault alike; a fault's own text stays inside, and so does the path."""
    answered = await ask(server, path, f"Authorization: Bearer {TOKEN}", method=method)
    assert problem(answered)[0] == status
    assert status != 405 or answered[1]["allow"] == "GET,HEAD,POST"
    assert b"s3cret" not in answered[2]
    assert b"<b>" not in answered[2]


NO_HTTP = [
    b"\x16\x03\x01\x02\x00",
    b"GET",
    b"GET / HTTP/9.9\r\nHost: a",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n<script>: \x00",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(b"X%d: a" % n for n in range(200)),
    b"POST /thing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    b"POST /thing HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x",
]


@pytest.mark.parametrize("head", NO_HTTP, ids=range(len(NO_HTTP)))
async def test_what_is_no_http_is_told_so(server, head):
    """Other protocols, too large heads, smuggling: 400 as problem details, with the headers, nothing echoed."""
    answered = await raw(server, head)
    assert problem(answered)[0] == 400
    assert answered[1]["content-security-policy"] == HEADERS["Content-Security-Policy"]
    assert b"<script>" not in answered[2]
    assert b"aaaa" not in answered[2]


async def test_a_body_has_its_limit(server):
    """One larger than any request gets 413, whether it says so beforehand or not."""
    sent = f"Authorization: Bearer {TOKEN}", "Content-Type: application/json"
    assert problem(await ask(server, "/thing", *sent, method="POST", body=b"x" * (MAX_BODY + 1)))[0] == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    chunked = *sent, "Transfer-Encoding: chunked"
    head = "\r\n".join(["POST /thing HTTP/1.1", "Host: localhost", "Connection: close", *chunked]).encode()
    assert problem(await raw(server, head, chunk * 20 + b"0\r\n\r\n"))[0] == 413


@pytest.mark.parametrize(
    "kind", ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "X: y"]
)
async def test_only_json_is_taken(server, kind):
    """What a form of another site could send is refused whatever it holds: 415."""
    answered = await ask(server, "/thing", f"Authorization: Bearer {TOKEN}", kind, method="POST", body=b"{}")
    assert problem(answered)[0] == 415


async def test_a_compressed_body_is_not_taken(server):
    """So that a few bytes cannot become many."""
    sent = f"Authorization: Bearer {TOKEN}", "Content-Type: application/json", "Content-Encoding: gzip"
    assert problem(await ask(server, "/thing", *sent, method="POST", body=b"{}"))[0] == 415


@pytest.mark.slow
async def test_a_body_that_drips_is_given_up(server, monkeypatch):
    """One that does not come within its time gets 408."""
    monkeypatch.setattr("streams.web.responses.READ_LIMIT", 0.2)
    sent = (
        f"Authorization: Bearer {TOKEN}",
        "Content-Type: application/json",
        "Content-Length: 100",
        "Connection: close",
    )
    head = "\r\n".join(["POST /thing HTTP/1.1", "Host: localhost", *sent]).encode()
    assert problem(await raw(server, head, b"{"))[0] == 408


@pytest.mark.slow
async def test_an_answer_that_takes_too_long_is_given_up(server, monkeypatch):
    """503 with Retry-After; a handler that bounds its own time is left alone."""
    monkeypatch.setattr("streams.web.security.HANDLING_LIMIT", 0.1)
    answered = await ask(server, "/slow")
    assert (problem(answered)[0], answered[1]["retry-after"]) == (503, "5")
    assert (await ask(server, "/unhurried"))[::2] == (200, b"waited")


@pytest.mark.slow
async def test_a_head_that_drips_is_given_up(monkeypatch):
    """A client that opens a connection and says nothing, or a byte at a time, is closed in time."""
    monkeypatch.setattr("streams.web.server.IDLE_LIMIT", 0.3)
    async with Server("127.0.0.1", 0, dict, ROUTES) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /thing HTTP/1.1\r\nX: ")

        async def drip():
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):  # a byte may cross the end of the connection
                assert await reader.read() == b""
        dripping.cancel()
        writer.close()


@pytest.mark.slow
async def test_a_client_that_does_not_take_its_answer_is_given_up(server, monkeypatch):
    """One that asks for much and reads nothing is cut off in time, and its answer's memory is free."""
    monkeypatch.setattr(connection, "TAKING_LIMIT", 0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.transport.pause_reading()
    writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(5):
        while not server._runner.server.connections:
            await asyncio.sleep(0.01)
        while server._runner.server.connections:
            await asyncio.sleep(0.01)
    writer.close()


@pytest.mark.slow
async def test_connections_are_counted(server, monkeypatch):
    """Past the limit an idle connection gives way to a new one; with none idle the new one does."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(6)]
    assert (await ask(server))[0] == 200
    async with asyncio.timeout(5):
        assert await opened[0][0].read() == b""
        while len(server._runner.server.connections) > 3:
            await asyncio.sleep(0.01)
    busy = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    for _, writer in busy:
        writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(5):
        while any(each._waiter is not None for each in server._runner.server.connections):
            await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(5):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    for _, each in [*opened, *busy, (reader, writer)]:
        each.close()


async def test_a_port_that_is_taken_is_said(server):
    """The error names the setting, the address and why."""
    with pytest.raises(SettingsError, match=rf"MILLRACE_WEB_PORT: .*127\.0\.0\.1:{server.port}: "):
        async with Server("127.0.0.1", server.port, dict):
            pass
