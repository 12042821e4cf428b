"""How often a request leaves, counted by raw servers on loopback that answer with bytes of one's own, or with none."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import aiohttp
import pytest

from models.errors import AnswerError, TimedOut, Unreachable, UpstreamError
from models.source import Retries, Source
from streams.http.client import Client
from streams.http.policy import policy_of
from tests.unit.streams.test_client import LIMIT, LOOPBACK

pytestmark = pytest.mark.slow

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b""
RESET = None
SILENCE = bytearray(b"never sent")
IDEMPOTENT, UNSAFE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"), ("POST", "PATCH")
TRIES = Retries(attempts=3, first_pause=0.0)
PATIENCE = 5.0
"""Seconds after which a test that hangs has failed."""
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


class Half(bytes):
    """Bytes of an answer after which its upstream hangs up."""


class Raw:
    """Answers request by request from a list of bytes, the last ones again and again; with CLOSE it hangs up without a
    word, with RESET it breaks the connection. `seen` are the heads that arrived, `connections` how many there were.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen, self.bodies, self.connections, self.url = [], [], 0, ""
        self.writers = set()

    async def start(self, stack, tls=None):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        stack.callback(server.close)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        return self

    async def _serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(head)
                if length := _LENGTH.search(head):
                    self.bodies.append(await reader.readexactly(int(length[1])))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is RESET:
                    writer.transport.abort()
                if not answer:
                    return
                if answer is SILENCE:
                    await reader.read()
                writer.write(answer)
                await writer.drain()
                if isinstance(answer, Half):
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def client(opened):
    return await opened.enter_async_context(Client(LIMIT, LOOPBACK, retry=TRIES))


@pytest.fixture
def raw(opened, client):
    """Start raw servers, which end after the client."""

    async def start(*answers, tls=None):
        return await Raw(*answers).start(opened, tls)

    return start


async def ask(client, url, method="GET", headers=(), body=None, **options):
    async with asyncio.timeout(PATIENCE):
        return await client.fetch(method, url, dict(headers), body, **options)


async def refused(client, url, method="GET", error=AnswerError, **options):
    with pytest.raises(error) as caught:
        await ask(client, url, method, **options)
    return caught.value


def answered(status, *fields, body=b""):
    lines = [f"HTTP/1.1 {status} Said".encode(), *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def counted(client, server):
    """Return how many requests arrived, which is as many as the client counts."""
    assert client.calls == len(server.seen)
    assert sum(client.stats.requests.values()) == len(server.seen)
    assert all(host.users == 0 == host.bulkhead.in_flight for host in client.hosts)
    return len(server.seen)


# -- what may have been received


FAILURES = {
    "closed": CLOSE,
    "reset": RESET,
    "half a head": Half(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half a body": Half(OK[:-1]),
    **{str(status): answered(status) for status in (408, 425, 429, 500, 502, 503, 504)},
}
"""What an upstream may do with a request that it may have obeyed."""


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("method", UNSAFE)
async def test_what_may_have_been_received_is_sent_once(client, raw, method, failure):
    """A method that is not idempotent is never repeated on the strength of an answer, or of none (RFC 9110, 9.2.2)."""
    server = await raw(FAILURES[failure])
    error = await refused(client, server.url, method, deadline=time.monotonic() + 1.0)
    assert (counted(client, server), error.attempts) == (1, 1)


@pytest.mark.parametrize("failure", ["closed", "reset", "503"])
@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_idempotent_methods_are_tried_as_often_as_told(client, raw, method, failure):
    """Three tries are three requests, also where aiohttp would send each twice, and each is counted everywhere."""
    server = await raw(FAILURES[failure])
    error = await refused(client, server.url, method)
    assert (counted(client, server), server.connections >= 1, error.attempts) == (3, True, 3)


@pytest.mark.parametrize("failure", ["closed", "reset", "500"])
@pytest.mark.parametrize("method", [*IDEMPOTENT, *UNSAFE])
async def test_one_attempt_is_one_request(client, raw, method, failure):
    """A source that says `attempts = 1` has its upstream asked once, on a new connection and on one used before."""
    policy = policy_of(Source("s", retry=Retries(attempts=1)), client.policy, client.post)
    server = await raw(FAILURES[failure])
    assert (await refused(client, server.url, method, policy=policy)).attempts == 1
    assert counted(client, server) == 1
    server.answers = [OK if method != "HEAD" else answered(200), FAILURES[failure]]
    await ask(client, server.url, method, policy=policy)
    assert (await refused(client, server.url, method, policy=policy)).attempts == 1
    assert counted(client, server) == 3


@pytest.mark.parametrize("failure", ["closed", "reset", "503"])
@pytest.mark.parametrize("method", UNSAFE)
async def test_a_source_can_have_anything_sent_again(client, raw, method, failure):
    """`retry.unsafe` is the operator's word that the upstream can bear it."""
    policy = policy_of(Source("s", retry=Retries(attempts=3, first_pause=0.0, unsafe=True)), client.policy, client.post)
    server = await raw(FAILURES[failure], FAILURES[failure], OK)
    response = await ask(client, server.url, method, body={"a": 1}, policy=policy)
    assert (counted(client, server), response.attempts, server.bodies) == (3, 3, [b'{"a":1}'] * 3)


async def test_a_sender_s_key_makes_a_request_repeatable(client, raw):
    """Whoever gives an Idempotency-Key has it sent with each try."""
    server = await raw(RESET, answered(503), OK)
    response = await ask(client, server.url, "POST", {"idempotency-key": "k"}, "body")
    assert (counted(client, server), response.attempts) == (3, 3)
    assert [head.count(b"idempotency-key: k\r\n") for head in server.seen] == [1, 1, 1]


async def test_a_read_time_out_may_have_been_received(client, raw):
    """An upstream that keeps silent has the request: a POST ends there, a GET is asked for again."""
    policy = policy_of(Source("s", retry=TRIES, read_timeout=0.05), client.policy, client.post)
    for method, times in (("POST", 1), ("GET", 3)):
        server = await raw(SILENCE)
        error = await refused(client, server.url, method, TimedOut, policy=policy)
        assert (len(server.seen), error.attempts, error.unsent) == (times, times, False)


# -- what surely was not sent


async def test_a_refused_connection_is_tried_again_whatever_the_method(client):
    """Where nothing listens nothing was sent."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        error = await refused(client, f"http://127.0.0.1:{bound.getsockname()[1]}/", "POST", Unreachable)
    assert (error.attempts, error.unsent) == (3, True)


async def test_a_name_that_does_not_resolve_is_tried_again_whatever_the_method(client, monkeypatch):
    """Without an address nothing was sent."""

    async def getaddrinfo(host, *_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, f"{host}: try again")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    error = await refused(client, "http://no.such.host.invalid/", "PATCH", Unreachable)
    assert (error.attempts, error.unsent) == (3, True)


async def test_a_failed_handshake_is_tried_again_whatever_the_method(client, raw):
    """TLS that does not come about carries no request: the server sees none, though it was dialled three times."""
    hellos = []

    async def refuse(reader, writer):
        hellos.append(await reader.read(65_536))
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        error = await refused(client, url, "POST", Unreachable)
    assert (error.attempts, error.unsent) == (3, True)
    assert [b"POST" in hello for hello in hellos] == [False] * 3


async def test_a_connect_time_out_is_tried_again_whatever_the_method(client, monkeypatch):
    """A connection that does not come about in time carries no request."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):  # who fills the backlog; further SYNs are not answered
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        policy = policy_of(Source("s", retry=TRIES, connect_timeout=0.1), client.policy, client.post)
        error = await refused(client, f"http://127.0.0.1:{full.getsockname()[1]}/", "POST", TimedOut, policy=policy)
    assert (error.attempts, error.unsent) == (3, True)


async def test_after_a_redirect_something_was_sent(client, raw):
    """A POST that was answered 307 has left; where it is sent on to cannot be reached, it is not sent anew."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        server = await raw(answered(307, b"Location: " + gone.encode()))
        error = await refused(client, server.url, "POST", Unreachable, body="x")
    assert (len(server.seen), error.attempts, error.unsent) == (1, 1, False)


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirected_post_is_sent_once_to_each_place(client, raw, status):
    """A redirect asks for the next request, which is no repetition; that one's failure is no reason for another."""
    there = await raw(answered(503))
    here = await raw(answered(status, b"Location: " + there.url.encode()))
    error = await refused(client, here.url, "POST", UpstreamError, body="x")
    assert (len(here.seen), len(there.seen), error.status, error.attempts) == (1, 1, 503, 1)


async def test_a_repetition_by_way_of_a_redirect_carries_its_key(client, raw):
    """A key that makes a request repeatable goes wherever it is repeated, another origin included."""
    there = await raw(answered(503), OK)
    here = await raw(answered(307, b"Location: " + there.url.encode()))
    response = await ask(client, here.url, "POST", {"Idempotency-Key": "k", "X-Secret": "s"}, "x")
    assert (len(here.seen), len(there.seen), response.attempts) == (2, 2, 2)
    assert all(b"Idempotency-Key: k" in head and b"X-Secret" not in head for head in there.seen)


# -- connections used before


async def until_idle_end(client, server):
    """Have the server close what is idle, and keep the client's loop from hearing of it."""
    for writer in server.writers:
        writer.close()
    # As a blocked loop would have it: the end is in the client's socket, and no turn of the loop has told the pool.
    deadline = time.monotonic() + PATIENCE
    transports = [proto.transport for conns in client._direct.pool._conns.values() for proto, _ in conns]
    for transport in transports:
        transport.pause_reading()
    await asyncio.sleep(0.05)
    assert transports
    assert time.monotonic() < deadline


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_connection_whose_end_has_come_is_not_used(client, raw, method):
    """A request after its upstream closed an idle connection goes out on a new one, at the first try."""
    server = await raw(OK)
    await ask(client, server.url)
    await until_idle_end(client, server)
    response = await ask(client, server.url, method)
    assert (response.attempts, len(server.seen), server.connections) == (1, 2, 2)


async def test_after_a_blocked_loop_a_post_goes_out_on_a_new_connection(client):
    """While this loop stands still, a server in another thread closes the idle connection: the POST is answered."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    closed, methods = threading.Event(), []

    def serve():
        for _ in range(2):
            connection, _peer = listener.accept()
            with connection:
                methods.append(connection.recv(65_536).split()[0])
                connection.sendall(OK)
                time.sleep(0.05)
            closed.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    await ask(client, url)
    assert closed.wait(PATIENCE)  # the loop is blocked here
    response = await ask(client, url, "POST")
    thread.join(PATIENCE)
    listener.close()
    assert (response.attempts, methods) == (1, [b"GET", b"POST"])


@pytest.mark.parametrize("unasked", [answered(408), b"garbage"])
async def test_bytes_that_answer_nothing_are_not_taken_for_an_answer(client, raw, unasked):
    """A 408 that an upstream sends while a connection is idle, before it closes it, is nobody's answer."""
    server = await raw(OK)
    await ask(client, server.url)
    for writer in server.writers:
        writer.write(unasked)
        writer.close()
    await asyncio.sleep(0.05)
    response = await ask(client, server.url, "POST")
    assert (response.status, response.attempts, server.connections) == (200, 1, 2)


async def test_a_connection_that_ends_under_a_request_is_replaced_at_once(client, raw):
    """An idempotent request that meets the end of a used connection is sent again without a pause, as an attempt."""
    slow = policy_of(Source("s", retry=Retries(first_pause=60.0, longest_pause=60.0)), client.policy, client.post)
    server = await raw(OK, CLOSE, OK)
    await ask(client, server.url, policy=slow)
    response = await ask(client, server.url, policy=slow)
    assert (response.attempts, len(server.seen), server.connections) == (2, 3, 2)
    [host] = client.hosts
    assert host.breaker._counts[1] == 0  # an idle connection's end is nobody's failure


async def test_healthy_connections_are_used_again(client, raw):
    """Looking at the socket costs no connection that is well."""
    server = await raw(OK)
    for method in ("GET", "POST", "PUT"):
        await ask(client, server.url, method)
    assert (len(server.seen), server.connections) == (3, 1)


def test_aiohttp_sends_again_only_what_these_errors_end():
    """What `send_once` translates is what aiohttp would answer by sending a request again: read anew if it changes."""
    import hashlib
    import inspect

    source = inspect.getsource(aiohttp.ClientSession._request)
    start = source.index("resp = await handler(req)")
    retried = source[start : source.index("# Update cookies from raw headers", start)]
    assert "except (ClientOSError, ServerDisconnectedError):" in retried
    assert hashlib.blake2b(retried.encode(), digest_size=6).hexdigest() == "4e68d549cb83"


# -- odd answers


ODD = {
    "informational": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + OK, 200),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
    "early 413": (Half(answered(413, b"Connection: close")), 413),
    "408": (Half(answered(408, b"Connection: close")), 408),
    "connection: close": (Half(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"), 200),
    "HTTP/1.0": (Half(b"HTTP/1.0 200 OK\r\n\r\nok"), 200),
    "upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 101),
    "426": (answered(426, b"Upgrade: h2c", b"Connection: Upgrade"), 426),
    "shorter than it says": (Half(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), "unreachable"),
    "longer than it says": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", 200),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "upstream_error"),
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", None,
    ),
}  # fmt: skip
"""An answer, and its status or the outcome; None: either of them, since the RFC leaves it open (9112, section 6.3)."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_odd_answers_end_as_they_should(client, raw, method, odd):
    """Each is an answer, or an error of its kind, and is counted as often as it was asked for; what follows is well."""
    answer, ends = ODD[odd]
    policy = policy_of(Source("s", retry=Retries(attempts=1)), client.policy, client.post)
    server = await raw(answer)
    body = None if method == "GET" else "x" * 100_000
    try:
        said = (await ask(client, server.url, method, body=body, policy=policy)).status
    except AnswerError as error:
        said = error.status if getattr(error, "status", None) else error.outcome
    assert said == ends or ends is None
    assert counted(client, server) == 1
    server.answers = [OK]
    assert (await ask(client, server.url, method, policy=policy)).body.content == b"ok"
    assert counted(client, server) == 2


@pytest.mark.parametrize("status", [413, 401, 200])
async def test_an_answer_before_the_body_was_sent_is_taken(client, status):
    """An upstream that answers a large POST from its head and closes is heard, not lost in a broken connection."""
    heads, ended = [], asyncio.Event()

    async def early(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answered(status, b"Connection: close"))
        await writer.drain()
        await reader.read(1000)  # some of the body, which is not asked for any more
        writer.close()
        ended.set()

    async with await asyncio.start_server(early, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            said = (await ask(client, url, "POST", body="x" * 1_000_000)).status
        except UpstreamError as error:
            said = error.status
        await ended.wait()
    assert (said, len(heads)) == (status, 1)


async def test_a_proxy_that_makes_no_tunnel_has_sent_nothing(raw, client):
    """What CONNECT ends in, an answer or a closed connection, is no reason not to send a POST again."""
    for answer in (answered(503), CLOSE):
        proxy = await raw(answer)
        policy = policy_of(Source("s", retry=TRIES, proxy=proxy.url), client.policy, client.post)
        error = await refused(client, "https://93.184.216.34/", "POST", body="x", policy=policy)
        assert (error.attempts, error.unsent) == (3, True)
        assert [head.split()[0] for head in proxy.seen] == [b"CONNECT"] * 3
        assert proxy.bodies == []
