"""Validators of settings, which raise ValidationError with the reason, and parsers, which raise ValueError."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from models.dead_letter import DLQ

MAX_PORT = 65_535
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PortRange = tuple[int, int]
"""First and last port, both included."""
NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)
"""Lengths that a prefix of NAT64 may have (RFC 6052, section 2.2)."""
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_PLACE = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_PROXY = re.compile(r"https?://(?:[^/?#\s]*@)?(?P<place>[^/?#@\s]+)/?")
_WEB_URL = re.compile(r"(?P<scheme>https?://)(?P<place>[^/?#@\s]+)/?")
_OWN_HEADERS = frozenset({"content-type", "traceparent", "tracestate"})
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_GROUP = re.compile(r"[A-Za-z0-9._-]{1,220}")


def split(text: str) -> tuple[str, ...]:
    """Return the names in a text, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def or_none(text: str) -> str | None:
    """Return the text, None for an empty one."""
    return text or None


def unbracketed(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    return host.strip("[]")


def validator(parse: Callable[[str], Any]) -> Callable[[str], None]:
    """Return a validator that refuses what `parse` refuses."""

    def check(text: str) -> None:
        try:
            parse(text)
        except ValueError as exc:
            raise ValidationError(str(exc)) from None

    return check


def bracketed(authority: str) -> str:
    """Add the brackets that an IPv6 address needs before a port: `$(POD_IP):6066` lacks them.

    In `fd00::5:6066` the last part is the port, unless the address has all its parts without it.
    """
    if authority.startswith("[") or authority.count(":") < 2:  # noqa: PLR2004  as many colons as an IPv6 address has
        return authority
    host, _, port = authority.rpartition(":")
    for written, address in ((f"[{host}]:{port}", host), (f"[{authority}]", authority)):
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(address)
            return written
    return authority


def bracketed_servers(text: str) -> str:
    """Return a list of host:port with each IPv6 address in brackets."""
    return re.sub(r"[^,\s]+", lambda found: bracketed(found[0]), text)


def bracketed_url(url: str) -> str:
    """Return a worker's URL with an IPv6 address in brackets."""
    scheme, separator, place = url.partition("://")
    return f"{scheme}{separator}{bracketed(place.rstrip('/'))}"


def servers(text: str) -> None:
    """Refuse an invalid list of host:port."""
    for server in map(str.strip, text.split(",")):
        if "@" in server:
            msg = "a login is not allowed here: set KAFKA_SASL_USERNAME"  # not quoted: it is a secret
            raise ValidationError(msg)
        if "://" in server:
            msg = f"{server!r}: give host:port alone; the protocol is KAFKA_SECURITY_PROTOCOL's"
            raise ValidationError(msg)
        if not _place(bracketed(server), port_needed=True):
            msg = f"{server!r} is not host:port"
            raise ValidationError(msg)


def _place(text: str, *, port_needed: bool = False) -> bool:
    """Whether a text is a host, an IPv6 address in brackets, with a port or without one."""
    found = _PLACE.fullmatch(text)
    if found is None or int(found["port"] or not port_needed) not in range(1, MAX_PORT + 1):
        return False
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            return bool(ipaddress.IPv6Address(found["host"][1:-1]))
        return False
    return True


def proxy(url: str) -> None:
    """Refuse an invalid proxy."""
    found = _PROXY.fullmatch(url)
    if url and (found is None or not _place(found["place"])):
        msg = "is not a proxy URL: give http://host:port, or http://user:password@host:port"  # not quoted: a secret
        raise ValidationError(msg)


def endpoint(url: str | None) -> None:
    """Refuse an invalid URL of a token endpoint."""
    if url and not re.fullmatch(r"https?://[^/?#@\s]+(?:[/?][^#\s]*)?", url):
        msg = "is not the URL of a token endpoint: https://host/path, without login"
        raise ValidationError(msg)


def registry(urls: str) -> None:
    """Refuse an invalid list of URLs of a schema registry."""
    for each in map(str.strip, urls.split(",")) if urls else ():
        if not re.fullmatch(r"https?://[^/?#@\s]+(?:/[^?#@\s]*)?", each):
            shown = "" if "@" in each else f"{each!r} "  # not quoted: a secret
            msg = f"{shown}is not the URL of a schema registry: https://host:port/path, without login"
            raise ValidationError(msg)


def store(url: str) -> None:
    """Refuse an invalid store."""
    if url != "memory://" and not (url.startswith("rocksdb://") and len(url) > len("rocksdb://")):
        shown = "" if "@" in url else f"{url!r} "  # not quoted: a secret
        msg = f"{shown}is not a store: memory:// or rocksdb://PATH"
        raise ValidationError(msg)


def url(url: str) -> None:
    """Refuse an invalid URL of a worker."""
    found = _WEB_URL.fullmatch(url)
    if url and (found is None or not _place(bracketed(found["place"]))):
        shown = "" if "@" in url else f"{url!r} "  # not quoted: a secret
        msg = f"{shown}is not the URL of a worker: http://host:port, an IPv6 address in brackets"
        raise ValidationError(msg)


def hosts(text: str) -> None:
    """Refuse invalid host names."""
    for name in split(text):
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+", name):
            shown = "" if "@" in name else f"{name!r} "  # not quoted: a secret
            msg = f"{shown}is not a host name: give names alone, without scheme and port, separated by commas"
            raise ValidationError(msg)


def carried(text: str) -> None:
    """Refuse names of headers that results have of their own, or that dead letters have."""
    for name in split(text):
        if name.lower() in _OWN_HEADERS or name.lower().startswith(("ce_", DLQ)):
            msg = f"{name!r} cannot be carried: results and dead letters have a header of that name"
            raise ValidationError(msg)


def file(path: str) -> None:
    """Refuse a missing file."""
    if path and not Path(path).is_file():
        msg = f"{path!r} is not a file"
        raise ValidationError(msg)


def topic(name: str) -> None:
    """Refuse an invalid topic name."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        msg = f"{name!r} is not a topic name: 1 to 249 of letters, digits, '.', '_' and '-'"
        raise ValidationError(msg)


def group(name: str) -> None:
    """Refuse a group whose topics Kafka would not take: they have its name and up to 29 characters more."""
    if not _GROUP.fullmatch(name):
        msg = f"{name!r} is not a group whose topics can have its name: 1 to 220 of letters, digits, '.', '_' and '-'"
        raise ValidationError(msg)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks such as `10.1.0.0/16,fd00::/8`. Raises ValueError naming the wrong one."""
    return tuple(_network(part) for part in split(text))


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """Read ports and ranges such as `8080,9000-9010`. Raises ValueError naming the wrong one."""
    ranges: list[PortRange] = []
    for part in split(text):
        low, _, high = part.partition("-")
        if not (low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low) <= MAX_PORT):
            msg = f"{part!r} is not a port or a range of ports"
            raise ValueError(msg)
        ranges.append((int(low), int(high or low)))
    return tuple(ranges)


def parse_nat64(text: str) -> tuple[ipaddress.IPv6Network, ...]:
    """Read prefixes of NAT64 such as `2001:db8:64::/96`. Raises ValueError naming the wrong one."""
    return tuple(_nat64(part) for part in split(text))


def _nat64(part: str) -> ipaddress.IPv6Network:
    network = _network(part)
    if not isinstance(network, ipaddress.IPv6Network) or network.prefixlen not in NAT64_LENGTHS:
        lengths = ", ".join(f"/{length}" for length in NAT64_LENGTHS)
        msg = f"{part!r} is not a NAT64 prefix: IPv6, of length {lengths}"
        raise ValueError(msg)
    return network


def _network(part: str) -> Network:
    try:
        return ipaddress.ip_network(part)
    except ValueError as exc:
        msg = f"{part!r} is not a network: {exc}"
        raise ValueError(msg) from None
