"""Names of several addresses and of either family, one of which leads nowhere: real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
import uvloop
from aiohttp import web

from models.errors import Denied, Unreachable
from models.source import Retries
from streams.config.validators import parse_networks, parse_ports
from streams.http.client import Client
from streams.http.guard import MAX_ADDRESSES, Guard

pytestmark = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
LOOPBACK = {"networks": parse_networks("127.0.0.0/8,::1/128"), "ports": parse_ports("1-65535")}


@pytest.fixture
def names(monkeypatch):
    """Have `h.example` resolved to what the test says."""

    def resolve(*addresses):
        def look_up(host, port, *_, **__):
            assert host == "h.example"
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0)) if ":" in each
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
                for each in addresses
            ]  # fmt: skip

        monkeypatch.setattr("streams.http.resolver.socket.getaddrinfo", look_up)

    return resolve


@contextlib.asynccontextmanager
async def serving(host):
    """Serve at an address; yields the port."""

    async def here(_):
        return web.Response(text=host)

    runner = web.ServerRunner(web.Server(here), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@contextlib.contextmanager
def hole(host, port):
    """Take no connections at an address: whoever connects waits for an answer that does not come."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=0), contextlib.ExitStack() as stack:
        for _ in range(3):  # as many as the system accepts by itself
            full = stack.enter_context(socket.socket(family))
            full.setblocking(False)
            full.connect_ex((host, port))
        yield


async def asked(port):
    """Fetch; returns what was answered, and after how long."""
    started = time.monotonic()
    async with Client(1000, Guard(**LOOPBACK), retry=Retries(attempts=1)) as client:
        response = await client.fetch("GET", f"http://h.example:{port}/", {}, deadline=started + 20)
    return response.body.content.decode(), time.monotonic() - started


@pytest.mark.slow
@loops
@pytest.mark.parametrize(("bad", "good"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_a_family_that_leads_nowhere_costs_a_moment(run, names, bad, good):
    """An address that does not answer is not waited for: the other family's is tried a quarter of a second later."""

    async def main():
        async with serving(good) as port:
            names(bad, good)
            with hole(bad, port):
                answered, seconds = await asked(port)
            assert (answered, 0.2 < seconds < 4) == (good, True)

    run(main())


@loops
@pytest.mark.usefixtures("way")
def test_a_family_that_refuses_costs_nothing(run, names):
    """Where nobody listens at the first address the next one is tried; a name may have IPv6 addresses alone."""

    async def main():
        async with serving("127.0.0.1") as port:
            names("::1", "127.0.0.1")
            assert (await asked(port))[0] == "127.0.0.1"
        async with serving("::1") as port:
            names("::1")
            assert (await asked(port))[0] == "::1"

    run(main())


@loops
@pytest.mark.usefixtures("way")
def test_of_many_addresses_some_of_each_family_are_dialled(run, names, monkeypatch):
    """Forty addresses are no forty sockets, and a family that comes last is not left out."""
    dialled = []

    def dial(self, info):
        dialled.append(info[4][0])
        return socket.socket(*info[:3])

    async def main():
        async with serving("::1") as port:
            names(*(f"127.0.0.{n}" for n in range(2, 42)), "::1")
            assert (await asked(port))[0] == "::1"

    monkeypatch.setattr(Guard, "socket", dial)
    run(main())
    assert len(dialled) <= MAX_ADDRESSES + 1


@pytest.mark.parametrize("denied", ["fd00::1", "10.0.0.1", "64:ff9b::a00:1"])
@pytest.mark.usefixtures("way")
async def test_one_denied_address_of_many_denies_the_name(names, denied):
    """Also the last of many, of either family, that would not be dialled: whoever gives such answers means no good."""
    names(*(f"127.0.0.{n}" for n in range(2, 42)), "::1", denied)
    with pytest.raises(Denied, match="not public"):
        await asked(80)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no such name, or no address for it"),
        (socket.gaierror(socket.EAI_NODATA, "No address"), "no such name, or no address for it"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "no name server gave an answer"),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), "Non-recoverable failure"),
    ],
)
@pytest.mark.usefixtures("way")
async def test_why_a_name_does_not_resolve_is_said(monkeypatch, error, said):
    """A name that there is not is not a name server that is away; either may be otherwise a moment later."""

    def look_up(*_, **__):
        raise error

    monkeypatch.setattr("streams.http.resolver.socket.getaddrinfo", look_up)
    with pytest.raises(Unreachable) as caught:
        await asked(80)
    assert str(caught.value) == f"h.example cannot be resolved: {said}"
    assert caught.value.retryable
