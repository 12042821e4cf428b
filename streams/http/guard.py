"""The SSRF guard: what a request may reach. The public internet on ports 80 and 443, and what the operator allows.

It judges the host as written, every address that DNS gives for it, and every address about to be dialled, which is
what a name whose answer flips between check and dial runs into. One denied answer denies the name. Nothing is sent
to a denied address, and a denied request is not tried again. The networks are those of the IANA special-purpose
registries (RFC 6890 and its updates); `ipaddress.is_global` lets many of them pass.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from models.errors import Denied
from streams.config.settings import Settings
from streams.config.validators import Network, PortRange, parse_nat64, parse_networks, parse_ports
from streams.http.embedded import embedded
from streams.http.resolver import Resolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

USUAL_PORTS: tuple[PortRange, ...] = ((80, 80), (443, 443))
"""Ports allowed by default."""

MAX_REMEMBERED = 10_000
"""Origins remembered as allowed."""
MAX_ADDRESSES = 4
"""Addresses of a name, of each family, that are dialled; all are checked."""
DENIED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's platform address, public by its look
        *("::1/128", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23"),
        *("2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
        *("::/3", "4000::/2", "8000::/1"),  # all but 2000::/3 is reserved (RFC 4291, section 2.4), some used privately
    )
)
"""Networks that are not the public internet. An IPv6 address that stands for an IPv4 one is checked as that: see
streams/http/embedded.py.
"""

# What getaddrinfo, as inet_aton before it, takes for an IPv4 address: 127.1, 2130706433, 0x7f.1, 0177.0.0.1.
_NUMERIC_HOST = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+)){0,3}")


class DeniedAddress(OSError):
    """Raised while aiohttp dials, which expects an OSError; the client translates it to Denied."""

    def __init__(self, network: Network) -> None:
        super().__init__(f"{network} is denied")
        self.network = network


@dataclass(frozen=True, slots=True)
class Guard:
    """What the operator allows beyond the public internet on the usual ports. Ports are inclusive ranges.

    `nat64`: prefixes by which this network reaches IPv4, beside the well-known one (RFC 6052).
    """

    networks: tuple[Network, ...] = ()
    ports: tuple[PortRange, ...] = ()
    nat64: tuple[ipaddress.IPv6Network, ...] = ()
    _passed: set[tuple[str, str]] = field(default_factory=set, repr=False, compare=False)

    def check(self, url: URL) -> None:
        """Check a URL before anything is resolved or dialled. Raises Denied, naming the rule."""
        origin = url.scheme, url.raw_authority
        if origin in self._passed:
            return
        self._judge(url)
        if len(self._passed) >= MAX_REMEMBERED:
            self._passed.clear()
        self._passed.add(origin)

    def _judge(self, url: URL) -> None:
        if url.scheme not in ("http", "https"):
            _deny(f"the scheme {url.scheme!r} is not http or https")
        if url.user is not None or url.password is not None:
            _deny("credentials in a URL are not allowed")
        port = url.port or 0
        if not self.opens(port):
            _deny(f"port {port} is not 80 or 443, nor in MILLRACE_ALLOW_PORTS")
        host = (url.host or "").removesuffix(".")
        if not host or "%" in host:
            _deny("the host is not a plain name or address")
        address = literal(host)
        if address is not None and (network := self.denied(address)) is not None:
            _deny(why(network))

    def opens(self, port: int) -> bool:
        """Whether this port may be reached."""
        return any(low <= port <= high for low, high in (*USUAL_PORTS, *self.ports))

    def denied(self, address: Address) -> Network | None:
        """Return the network for which an address is denied, None if it may be reached.

        IPv4 inside IPv6 is checked as the IPv4 address, also where a network of such addresses is allowed: it opens
        the way, not what lies behind it. A network that names the IPv4 addresses themselves is allowed as it stands.
        """
        if isinstance(address, ipaddress.IPv6Address):
            found = [*embedded(address, self.nat64, self.networks)]
            longest = max((each.prefixlen for each in self.networks if address in each), default=0)
            for inside in found:
                if longest <= inside.leading and (network := self.denied(inside.address)) is not None:
                    return network
            if any(inside.decides for inside in found):
                return None
        if any(address in network for network in self.networks):
            return None
        return next((network for network in DENIED if address in network), None)

    def resolver(self) -> AbstractResolver:
        """Return a resolver that refuses a name any of whose addresses is denied."""
        return _Resolver(self)

    def socket(self, info: Any) -> socket.socket:
        """Make the socket for an address about to be dialled. Raises DeniedAddress."""
        family, kind, protocol, _, (host, *_) = info
        network = self.denied(ipaddress.ip_address(host.partition("%")[0]))
        if network is not None:
            raise DeniedAddress(network)
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._resolver = Resolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            network = self._guard.denied(ipaddress.ip_address(each["host"].partition("%")[0]))
            if network is not None:
                raise Denied(why(network))
        return few(found)

    async def close(self) -> None:
        await self._resolver.close()


def few(found: list[ResolveResult]) -> list[ResolveResult]:
    """Return some addresses of each family, in order: a dead host with many would take a socket for each."""
    taken: Counter[int] = Counter()
    kept: list[ResolveResult] = []
    for each in found:
        taken[each["family"]] += 1
        if taken[each["family"]] <= MAX_ADDRESSES:
            kept.append(each)
    return kept


def guard_of(settings: Settings) -> Guard:
    """Return the guard by the settings."""
    allowed = parse_networks(settings.allow_networks), parse_ports(settings.allow_ports)
    return Guard(*allowed, nat64=parse_nat64(settings.nat64_prefixes))


def literal(host: str) -> Address | None:
    """Return the address that a host is, in any spelling that a resolver accepts; None for a name."""
    if _NUMERIC_HOST.fullmatch(host):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def why(network: Network) -> str:
    """Return why an address in this network is denied, without the address of a name."""
    return f"the host is in {network}, which is not public; to allow it, add it to MILLRACE_ALLOW_NETWORKS"


def _deny(rule: str) -> None:
    raise Denied(rule)
