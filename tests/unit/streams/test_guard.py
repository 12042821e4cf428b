"""The SSRF guard: the table of hostile inputs, met by the guard alone and by the client with real sockets."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from models.errors import Denied, InvalidRequest
from models.source import Retries
from streams.config.settings import Settings
from streams.config.validators import parse_nat64, parse_networks, parse_ports
from streams.http.client import Client
from streams.http.guard import DENIED, DeniedAddress, Guard, guard_of, literal
from streams.http.url import resolve

LOOPBACK_SPELLINGS = [
    "127.0.0.1", "127.1", "0", "0x0", "2130706433", "0177.0.0.1", "0x7f000001", "127.000.000.001", "127.0.0.1.",
    "0x7f.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "127%2e0%2e0%2e1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]",
    "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[0:0:0:0:0:ffff:7f00:1]",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_loopback_is_denied_however_it_is_written(host: str) -> None:
    """No spelling of a loopback address that a resolver would take passes."""
    with pytest.raises(Denied):
        Guard().check(URL(f"http://{host}/"))


@pytest.mark.parametrize(
    "host",
    [
        "xn--a",
        "xn--",
        "a.xn--a",
        "999.1.1.1",
        "123456789012",
        "1.2.3",
        "1.2.3.4.5",
        "[::1].x",
        "[1.2.3.4]",
        "a\xadb.com",
    ],
)
@pytest.mark.parametrize("path", ["/", "/a?b", "/%2F"])
@pytest.mark.usefixtures("way")
async def test_a_host_that_is_none_is_refused(host: str, path: str) -> None:
    """What is neither a name nor an address ends as an invalid request, in a redirect as what the upstream did."""
    async with Client(1000, Guard(), retry=Retries(attempts=1)) as client:
        with pytest.raises(InvalidRequest, match=r"url: (cannot be requested|is no)"):
            await client.fetch("GET", f"http://{host}{path}", {})
    if not host[0].isdigit():  # aiohttp refuses those when they are dialled
        with pytest.raises(ValueError, match=r"."):
            resolve(URL("http://example.com/"), f"http://{host}{path}")


@pytest.mark.parametrize("host", ["[fe80::1%25eth0]", "[::1%25lo]", "[::ffff:127.0.0.1%25lo]", "."])
def test_zones_are_denied(host: str) -> None:
    """A zone names an interface of this machine: nothing public has one."""
    with pytest.raises(Denied, match="not a plain name"):
        Guard().check(URL(f"http://{host}/"))


@pytest.mark.parametrize(
    "host", ["my_host.example", "-a.example", "a..b", "xn--80ak6aa92e.com", "\u0661\u0662\u0667.\u0660.1", "0x", "ß.de"]
)
def test_odd_names_are_names(host: str) -> None:
    """They are looked up like any other; whatever they resolve to is judged then."""
    Guard().check(URL(f"http://{host}/"))


@pytest.mark.parametrize("host", ["200::1", "400::1", "1000::1", "4000::1", "8000::1", "e000::1", "64:ff9b:0:1::a00:1"])
def test_what_is_reserved_in_ipv6_is_not_the_internet(host):
    """Only 2000::/3 is given out (RFC 4291, section 2.4); private overlays use some of the rest."""
    with pytest.raises(Denied):
        Guard().check(URL(f"http://[{host}]/"))
    Guard().check(URL("http://[2606:4700::1111]/"))


@pytest.mark.parametrize("network", DENIED, ids=str)
def test_every_special_network_is_denied_at_both_ends(network: Any) -> None:
    """The first and the last address of each network of the table are denied, as literal and when dialled."""
    for address in (network[0], network[-1]):
        host = f"[{address}]" if address.version == 6 else str(address)
        with pytest.raises(Denied, match="not public"):
            Guard().check(URL(f"http://{host}/"))
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with pytest.raises(DeniedAddress):
            Guard().socket((family, socket.SOCK_STREAM, 6, "", (str(address), 80)))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "168.63.129.17", "2606:4700::1", "2a00::1"])
def test_public_addresses_pass(address: str) -> None:
    """What is public may be reached."""
    assert Guard().denied(ipaddress.ip_address(address)) is None
    assert Guard().denied(ipaddress.ip_address("::ffff:8.8.8.8")) is None
    Guard().check(URL("http://example.com/"))


@pytest.mark.parametrize(
    ("allowed", "nat64", "public", "private"),
    [
        ("", "", "64:ff9b::808:808", "64:ff9b::a00:1"),
        ("64:ff9b::/96", "", "64:ff9b::808:808", "64:ff9b::a00:1"),
        ("::/0", "", "64:ff9b::808:808", "64:ff9b::a9fe:a9fe"),
        ("::/0", "", "::ffff:8.8.8.8", "::ffff:10.0.0.1"),
        ("::ffff:0:0/96", "", "::ffff:8.8.8.8", "::ffff:127.0.0.1"),
        ("2002::/16", "", "2002:808:808::1", "2002:a00:1::1"),
        ("::ffff:0:0:0/96", "", "::ffff:0:8.8.8.8", "::ffff:0:10.0.0.1"),
        ("::/96", "", "::8.8.8.8", "::192.168.0.1"),
        ("64:ff9b:1::/48", "", "64:ff9b:1::808:808", "64:ff9b:1::a00:1"),
        ("64:ff9b:1::/48", "", "64:ff9b:1:808:8:800::", "64:ff9b:1:a00:0:100:808:808"),
        ("64:ff9b:1::/48,64:ff9b:1:fffe::/96", "", "64:ff9b:1::808:808", "64:ff9b:1:fffe::a00:1"),
        ("", "64:ff9b:1:fffe::/96", "64:ff9b:1:fffe::808:808", "64:ff9b:1:fffe::a00:1"),
        ("", "2a00:64::/32", "2a00:64:808:808::", "2a00:64:a00:1::"),
        ("", "2a00:64:100::/40", "2a00:64:108:808:8::", "2a00:64:10a:0:1::"),
        ("", "2a00:64:1::/48", "2a00:64:1:808:8:800::", "2a00:64:1:a00:0:100::"),
        ("", "2a00:64:1:100::/56", "2a00:64:1:108:8:808::", "2a00:64:1:10a:0:1::"),
        ("", "2a00:64:1:1::/64", "2a00:64:1:1:8:808:800:0", "2a00:64:1:1:a:0:100:0"),
        ("", "fd00:64::/96", "fd00:64::808:808", "fd00:64::a00:1"),
        ("", "", "2a00::5efe:808:808", "2a00::5efe:a00:1"),
        ("2001::/32", "", "2001:0:808:808::f7f7:f7f7", "2001:0:808:808::f5ff:fffe"),
    ],
)
def test_ipv4_inside_ipv6_is_judged_by_itself(allowed: str, nat64: str, public: str, private: str) -> None:
    """What stands for an IPv4 address may be reached if that may be, whatever network of them is allowed."""
    guard = guard_of(Settings(allow_networks=allowed, nat64_prefixes=nat64))
    assert guard.denied(ipaddress.ip_address(public)) is None
    assert isinstance(guard.denied(ipaddress.ip_address(private)), ipaddress.IPv4Network)


def test_who_allows_an_ipv4_network_allows_it_inside_ipv6() -> None:
    """The IPv4 network opens its translated addresses, and so does an IPv6 network that names the IPv4 addresses."""
    for allowed in ("10.0.0.0/8", "64:ff9b::a00:0/104", "64:ff9b::a00:1/128"):
        guard = guard_of(Settings(allow_networks=allowed))
        assert guard.denied(ipaddress.ip_address("64:ff9b::a00:1")) is None
        assert guard.denied(ipaddress.ip_address("64:ff9b::7f00:1")) is not None
    guard = guard_of(Settings(allow_networks="::1/128"))
    assert guard.denied(ipaddress.ip_address("::1")) is None


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("http://user:pw@example.com/", "credentials"),
        ("http://example.com@127.0.0.1/", "credentials"),
        ("http://user@example.com/", "credentials"),
        ("http://example.com:8080/", "port 8080"),
        ("http://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
    ],
)
def test_scheme_credentials_and_port_are_judged(url: str, rule: str) -> None:
    """Only http and https, no credentials, only ports 80 and 443; the error names the rule."""
    with pytest.raises(Denied, match=rule):
        Guard().check(URL(url))


def test_the_operator_opens_networks_and_ports() -> None:
    """What is allowed by name passes, and nothing beside it."""
    guard = guard_of(Settings(allow_networks="127.0.0.0/8, fd00::/8", allow_ports="8080,9000-9010"))
    for url in ("http://127.0.0.1:8080/", "http://127.1:9005/", "http://[fd00::5]/", "http://[::ffff:127.0.0.1]/"):
        guard.check(URL(url))
    for url in ("http://10.0.0.1/", "http://127.0.0.1:9011/", "http://[::1]/"):
        with pytest.raises(Denied):
            guard.check(URL(url))


@pytest.mark.parametrize(
    ("text", "parse"),
    [("10.0.0.1/8", parse_networks), ("x", parse_networks), ("0", parse_ports), ("70000", parse_ports),
     ("9-8", parse_ports), ("a-b", parse_ports), ("-5", parse_ports), ("64:ff9b:1::/80", parse_nat64),
     ("10.0.0.0/32", parse_nat64), ("x", parse_nat64)],
)  # fmt: skip
def test_wrong_settings_are_named(text: str, parse: Any) -> None:
    """A network or port that is none is told."""
    with pytest.raises(ValueError, match=r"not a (network|port|NAT64 prefix)"):
        parse(text)


def test_names_are_no_literals() -> None:
    """Only what stands for an address is taken for one."""
    assert literal("example.com") is None
    assert literal("1.2.3.4.5") is None
    assert literal("999.1.1.1") is None
    assert str(literal("fe80::1%eth0")) == "fe80::1"


class Names(AbstractResolver):
    """A resolver that answers from a list, one answer a question; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=each, port=port, family=socket.AF_INET, proto=0, flags=0)
            for each in answer
        ]

    async def close(self) -> None:
        pass


class Named(Guard):
    """A guard whose names are resolved by the test."""

    names: Names

    def resolver(self) -> AbstractResolver:
        checked = super().resolver()
        checked._resolver = self.names  # type: ignore[attr-defined]
        return checked


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that counts nothing must reach."""

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def secret(_: web.Request) -> web.Response:
        return web.Response(text="secret")

    app = web.Application()
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/secret", secret)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def named(*answers: list[str], networks: str = "", port: int = 0) -> Named:
    guard = Named(parse_networks(networks), ((port, port),) if port else ())
    object.__setattr__(guard, "names", Names(*answers))
    return guard


@pytest.mark.usefixtures("way")
async def test_a_name_with_one_denied_answer_is_denied(port: int) -> None:
    """Public and private answers together, or a private one alone: the name is not dialled at all."""
    for answers in (["93.184.216.34", "127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]):
        async with Client(1000, named(answers, port=port)) as client:
            with pytest.raises(Denied, match="not public"):
                await client.fetch("GET", f"http://name.example:{port}/secret", {})


@pytest.mark.usefixtures("way")
async def test_an_address_that_flips_after_the_check_is_not_dialled(port: int) -> None:
    """DNS that lies to the check meets the guard again where the socket is made."""

    class Blind(Named):
        def resolver(self) -> AbstractResolver:
            return self.names

    guard = Blind((), ((port, port),))
    object.__setattr__(guard, "names", Names(["127.0.0.1"]))
    async with Client(1000, guard) as client:
        with pytest.raises(Denied, match=r"127\.0\.0\.0/8"):
            await client.fetch("GET", f"http://name.example:{port}/secret", {})


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "gopher://127.0.0.1/", "http://10.0.0.1/", "http://2130706434/", "http://[::ffff:7f00:2]/",
     "//10.0.0.1/", "http://user:pw@127.0.0.5/", "http://127.0.0.1:22/"],
)  # fmt: skip
@pytest.mark.usefixtures("way")
async def test_redirects_are_judged_like_requests(port: int, target: str) -> None:
    """A redirect to what a request may not name is denied, in any spelling."""
    guard = Guard(parse_networks("127.0.0.1/32"), ((port, port),))
    async with Client(1000, guard) as client:
        with pytest.raises(Denied):
            await client.fetch("GET", f"http://127.0.0.1:{port}/redirect?to={target}", {})
        response = await client.fetch("GET", f"http://127.0.0.1:{port}/redirect?to=/secret", {})
        assert response.body.content == b"secret"
