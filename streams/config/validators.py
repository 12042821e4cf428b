"""What the text of a setting may be: each raises ValidationError, saying what is wrong, for what it may not."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

MAX_PORT = 65_535
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_PLACE = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_PROXY = re.compile(r"https?://(?:[^/?#\s]*@)?(?P<place>[^/?#@\s]+)/?")
_WEB_URL = re.compile(r"(?P<scheme>https?://)(?P<place>[^/?#@\s]+)/?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def split(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def or_none(text: str) -> str | None:
    """Return the text, None for an empty one."""
    return text or None


def unbracketed(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    return host.strip("[]")


def validator(parse: Callable[[str], Any]) -> Callable[[str], None]:
    """Return a validator of what `parse` takes."""

    def check(text: str) -> None:
        try:
            parse(text)
        except ValueError as exc:
            raise ValidationError(str(exc)) from None

    return check


def bracketed(place: str) -> str:
    """Put an IPv6 address into the brackets that a port needs: `$(POD_IP):6066` leaves them out. Of `fd00::5:6066` the
    last part is the port; an address that has as many parts as there can be is no more than that.
    """
    if place.startswith("[") or place.count(":") < 2:  # noqa: PLR2004  as many colons as an IPv6 address has
        return place
    host, _, port = place.rpartition(":")
    for written, address in ((f"[{host}]:{port}", host), (f"[{place}]", place)):
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(address)
            return written
    return place


def bracketed_servers(text: str) -> str:
    """Return a list of host:port with each IPv6 address in brackets."""
    return re.sub(r"[^,\s]+", lambda found: bracketed(found[0]), text)


def bracketed_url(url: str) -> str:
    """Return a worker's URL with an IPv6 address in brackets."""
    scheme, separator, place = url.partition("://")
    return f"{scheme}{separator}{bracketed(place.rstrip('/'))}"


def servers(text: str) -> None:
    """Refuse what is no list of host:port."""
    for server in map(str.strip, text.split(",")):
        if "@" in server:
            msg = "a login is not taken here: see KAFKA_SASL_USERNAME"  # not quoted: it is a secret
            raise ValidationError(msg)
        if "://" in server:
            msg = f"{server!r}: give host:port alone; the protocol is KAFKA_SECURITY_PROTOCOL's"
            raise ValidationError(msg)
        if not _place(bracketed(server), port_needed=True):
            msg = f"{server!r} is no host:port"
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
    """Refuse what is no proxy."""
    found = _PROXY.fullmatch(url)
    if url and (found is None or not _place(found["place"])):
        msg = "is no proxy: give http://host:port, or http://user:password@host:port"  # not quoted: it may be a secret
        raise ValidationError(msg)


def endpoint(url: str | None) -> None:
    """Refuse what is no URL that a token is asked for at."""
    if url is not None and not re.fullmatch(r"https?://[^/?#@\s]+(?:[/?][^#\s]*)?", url):
        msg = "is no URL of a token endpoint: https://host/path, without login"
        raise ValidationError(msg)


def store(url: str) -> None:
    """Refuse what is no store."""
    if url != "memory://" and not (url.startswith("rocksdb://") and len(url) > len("rocksdb://")):
        shown = "" if "@" in url else f"{url!r} "  # not quoted: it may be a secret
        msg = f"{shown}is no store: memory:// or rocksdb://PATH"
        raise ValidationError(msg)


def url(url: str) -> None:
    """Refuse what is no worker's URL."""
    found = _WEB_URL.fullmatch(url)
    if url and (found is None or not _place(bracketed(found["place"]))):
        shown = "" if "@" in url else f"{url!r} "  # not quoted: it may be a secret
        msg = f"{shown}is no URL of a worker: http://host:port, an IPv6 address in brackets"
        raise ValidationError(msg)


def hosts(text: str) -> None:
    """Refuse what are no host names."""
    for name in split(text):
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+", name):
            shown = "" if "@" in name else f"{name!r} "  # not quoted: it may be a secret
            msg = f"{shown}is no host name: give names alone, without scheme and port, with commas between them"
            raise ValidationError(msg)


def file(path: str) -> None:
    """Refuse what is no file."""
    if path and not Path(path).is_file():
        msg = f"{path!r} is no file"
        raise ValidationError(msg)


def topic(name: str) -> None:
    """Refuse what is no name of a topic."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        msg = f"{name!r} is no topic name: 1 to 249 of letters, digits, '.', '_' and '-'"
        raise ValidationError(msg)
