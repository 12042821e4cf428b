"""IPv4 addresses inside IPv6 ones: what a gateway, a tunnel or the system itself sends to the IPv4 address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

from streams.config.validators import NAT64_LENGTHS, Network

# RFC 4291 (mapped, compatible), RFC 6052 and RFC 8215 (NAT64), RFC 2765 (SIIT).
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_SIIT = IPv6Network("::ffff:0:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")

_ISATAP_MARKS = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""What stands before the IPv4 address in an interface's identifier (RFC 5214, section 6.1)."""
_FIRST_COMPATIBLE = 1 << 24
"""Below are the unspecified address and loopback, which are no IPv4 address's (RFC 4291, section 2.5)."""


class Embedded(NamedTuple):
    """An IPv4 address inside an IPv6 one, after so many `leading` bits.

    `decides`: the IPv6 address is public if this one is; else it must be allowed besides.
    """

    address: IPv4Address
    leading: int
    decides: bool


def embedded(address: IPv6Address, nat64: Iterable[IPv6Network], allowed: Iterable[Network]) -> Iterator[Embedded]:
    """Yield the IPv4 addresses inside an IPv6 address.

    `nat64`: the network's own prefixes. `allowed`: networks that the operator allows; where one opens
    64:ff9b:1::/48 or a part of it, what is there is NAT64 (RFC 8215), with a prefix of its length or a longer one.
    """
    yield from _known(address)
    number = int(address)
    for prefix in nat64:
        if address in prefix:
            yield Embedded(_inside(number, prefix.prefixlen), prefix.prefixlen, decides=True)
    if address in _LOCAL_NAT64:
        for network in allowed:
            if isinstance(network, IPv6Network) and address in network:
                yield from (Embedded(each, 96, decides=False) for each in _any_length(number, network.prefixlen))


def _known(address: IPv6Address) -> Iterator[Embedded]:
    number = int(address)
    last = IPv4Address(number & 0xFFFF_FFFF)
    if address in _MAPPED or address in _NAT64:
        yield Embedded(last, 96, decides=True)
    if address in _SIIT or (address in _COMPATIBLE and int(last) >= _FIRST_COMPATIBLE):
        yield Embedded(last, 96, decides=False)
    if address.sixtofour is not None:
        yield Embedded(address.sixtofour, 16, decides=True)
    if address.teredo is not None:
        yield from (Embedded(each, 32, decides=False) for each in address.teredo)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP_MARKS:
        yield Embedded(last, 0, decides=False)


def _any_length(number: int, shortest: int) -> list[IPv4Address]:
    """Return the IPv4 addresses by every length that a prefix may have there; 0.0.0.0/8 shows that it is not that."""
    lengths = (each for each in NAT64_LENGTHS if each >= max(shortest, _LOCAL_NAT64.prefixlen))
    found = [_inside(number, length) for length in lengths]
    return [each for each in found if int(each) >= _FIRST_COMPATIBLE] or found


def _inside(number: int, length: int) -> IPv4Address:
    """Return the IPv4 address behind a prefix of NAT64; bits 64 to 71 are none of it (RFC 6052, section 2.2)."""
    if length <= 56:  # noqa: PLR2004  those whose address runs across these bits
        number = (number >> 64 << 56) | (number & (1 << 56) - 1)
        return IPv4Address(number >> (120 - 32 - length) & 0xFFFF_FFFF)
    return IPv4Address(number >> (24 if length == 64 else 0) & 0xFFFF_FFFF)  # noqa: PLR2004  the length in the table
