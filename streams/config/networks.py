"""Networks and ports as an operator writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PortRange = tuple[int, int]
"""First and last port, both included."""
NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)
"""Lengths that a prefix of NAT64 may have (RFC 6052, section 2.2)."""


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks such as `10.1.0.0/16,fd00::/8`. Raises ValueError naming the wrong one."""
    return tuple(_network(part) for part in _parts(text))


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """Read ports and ranges such as `8080,9000-9010`. Raises ValueError naming the wrong one."""
    ranges: list[PortRange] = []
    for part in _parts(text):
        low, _, high = part.partition("-")
        if not (low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low) <= 65535):  # noqa: PLR2004
            msg = f"{part!r} is no port or range of ports"
            raise ValueError(msg)
        ranges.append((int(low), int(high or low)))
    return tuple(ranges)


def parse_nat64(text: str) -> tuple[ipaddress.IPv6Network, ...]:
    """Read prefixes of NAT64 such as `2001:db8:64::/96`. Raises ValueError naming the wrong one."""
    return tuple(_nat64(part) for part in _parts(text))


def _nat64(part: str) -> ipaddress.IPv6Network:
    network = _network(part)
    if not isinstance(network, ipaddress.IPv6Network) or network.prefixlen not in NAT64_LENGTHS:
        lengths = ", ".join(f"/{length}" for length in NAT64_LENGTHS)
        msg = f"{part!r} is no prefix of NAT64: IPv6, of length {lengths}"
        raise ValueError(msg)
    return network


def _network(part: str) -> Network:
    try:
        return ipaddress.ip_network(part)
    except ValueError as exc:
        msg = f"{part!r} is no network: {exc}"
        raise ValueError(msg) from None


def _parts(text: str) -> Iterable[str]:
    return (part.strip() for part in text.split(",") if part.strip())
