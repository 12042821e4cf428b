"""Cache tiers as URLs: `memory://?entries=10000 file:///var/cache/millrace memcached://a,b`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote

from models.source import DEFAULT_TTL

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

MEMCACHED_PORT = 11_211

_SIZE = re.compile(r"(\d{1,15})\s*([A-Za-z]*)")
_UNITS = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_CACHES = "give memory://, file:///folder or memcached://host:port"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z]+://)")
_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[1-9][0-9]{0,4}))?")
_PREFIX = re.compile(r"[!-~]{1,100}")


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """How much the in-memory cache may hold: entries, bytes, and for how many seconds an entry is fresh."""

    entries: int = 10_000
    bytes: int = 64 * MIB
    ttl: float = DEFAULT_TTL


@dataclass(frozen=True, slots=True)
class FileTier:
    """A folder of entries: `threshold` files at most, each for `timeout` seconds; `fsync` each before it counts."""

    path: Path
    threshold: int = 10_000
    timeout: float = 3600.0
    fsync: bool = False


@dataclass(frozen=True, slots=True)
class MemcachedTier:
    """Memcached servers (host, port), the `prefix` of our keys, and the seconds that one operation may take."""

    servers: tuple[tuple[str, int], ...]
    prefix: str = "mr"
    timeout: float = 0.2


Tier: TypeAlias = MemoryTier | FileTier | MemcachedTier


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Read tiers in their order, separated by spaces or commas. Raises ValueError naming the wrong one."""
    tiers = tuple(_tier(url.strip(" ,")) for url in _BETWEEN.split(text.strip()))
    if any(isinstance(tier, MemoryTier) for tier in tiers[1:]):
        msg = "memory:// comes once, and first: other tiers are used for what it does not have"
        raise ValueError(msg)
    return tiers


def freshness_of(tiers: tuple[Tier, ...]) -> float:
    """Return the seconds that an answer is fresh unless its source sets them."""
    return tiers[0].ttl if isinstance(tiers[0], MemoryTier) else DEFAULT_TTL


def parse_bytes(text: str) -> int:
    """Read a size such as `64MiB` or `1048576`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS or int(found[1]) == 0:
        msg = f"{text!r} is not a size: give bytes, or a number with KiB, MiB or GiB"
        raise ValueError(msg)
    return int(found[1]) * _UNITS[found[2]]


def _tier(url: str) -> Tier:
    found = _URL.fullmatch(url)
    if found is None or "@" in found["netloc"]:
        shown = repr(url) if "@" not in url else "that"  # not quoted: it may be a secret
        msg = (
            f"{shown} is not a cache URL: {_CACHES}"
            if found is None
            else f"{found['scheme']}://: no login is supported"
        )
        raise ValueError(msg)
    # Not by urlsplit: what it takes with brackets in a list of servers differs by Python's version.
    parts = SplitResult(found["scheme"].lower(), *(found[name] or "" for name in SplitResult._fields[1:]))
    if "://" in parts.path:
        msg = f"{url!r}: tiers are separated by spaces or commas"
        raise ValueError(msg)
    if (
        parts.fragment
        or (parts.scheme == "memory" and (parts.netloc or parts.path))
        or (parts.scheme == "memcached" and parts.path)
    ):
        msg = f"{url!r} has more than a {parts.scheme}:// URL takes; tiers are separated by spaces or commas"
        raise ValueError(msg)
    match parts.scheme:
        case "memory":
            return MemoryTier(**_options(parts, {"entries": int, "bytes": parse_bytes, "ttl": float}))
        case "file":
            path = Path(unquote(parts.path))
            if parts.netloc or not parts.path or not path.is_absolute() or path == Path("/"):
                msg = f"{url!r} names no folder: give file:///var/cache/millrace"
                raise ValueError(msg)
            return FileTier(path, **_options(parts, {"threshold": int, "timeout": float, "fsync": _truth}))
        case "memcached":
            servers = tuple(_server(text) for text in parts.netloc.split(","))
            return MemcachedTier(servers, **_options(parts, {"prefix": _prefix, "timeout": float}))
    msg = f"{url!r} is not a cache URL: {_CACHES}"
    raise ValueError(msg)


def _options(parts: SplitResult, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=True):
        if name not in readers:
            msg = f"{name!r} is not an option of {parts.scheme}://; known: {', '.join(readers)}"
            raise ValueError(msg)
        if name in values:
            msg = f"{name!r} is given twice"
            raise ValueError(msg)
        values[name] = _read(name, text, readers[name])
    return values


def _read(name: str, text: str, reader: Callable[[str], Any]) -> Any:
    if reader not in (int, float, parse_bytes):
        return reader(text)
    try:
        value = reader(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        msg = f"{name}={text} must be a number more than 0"
        raise ValueError(msg)
    return value


def _server(text: str) -> tuple[str, int]:
    found = _SERVER.fullmatch(text.strip())
    port = int(found["port"] or MEMCACHED_PORT) if found else 0
    if found is None or port > 65_535:  # noqa: PLR2004  the last port there is
        msg = f"{text!r} is not a memcached server: give host or host:port"
        raise ValueError(msg)
    return found["six"] or found["name"], port


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        msg = f"prefix={text!r} must be 1 to 100 visible ASCII characters"
        raise ValueError(msg)
    return text


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        msg = f"{text!r} is neither true nor false"
        raise ValueError(msg)
    return text.lower() in ("true", "1")
