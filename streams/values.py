"""What the text of a setting may be: each raises ValidationError, saying what is wrong, for what it may not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environs import Env
from marshmallow import ValidationError

from streams.tiers import parse_bytes

MAX_PORT = 65_535
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PROXY = re.compile(r"https?://(?:[^/?#\s]*@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[1-9][0-9]{0,4})?/?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def split(text: str | None) -> tuple[str, ...]:
    """Return the names in a text with commas between them."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def read_bytes(env: Env, name: str, default: int) -> int:
    """Read a number of bytes, such as `8388608` or `8MiB`."""
    text = env.str(name, str(default), validate=validator(parse_bytes))
    return parse_bytes(text) if text else default


def validator(parse: Callable[[str], Any]) -> Callable[[str], None]:
    """Return a validator of what `parse` takes."""

    def check(text: str) -> None:
        try:
            parse(text)
        except ValueError as exc:
            raise ValidationError(str(exc)) from None

    return check


def servers(text: str) -> None:
    """Refuse what is no list of host:port."""
    for server in text.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
            msg = f"{server.strip()!r} is no host:port"
            raise ValidationError(msg)


def proxy(url: str) -> None:
    """Refuse what is no proxy."""
    if url and not _PROXY.fullmatch(url):
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
        msg = f"{url!r} is no store: memory:// or rocksdb://PATH"
        raise ValidationError(msg)


def url(url: str) -> None:
    """Refuse what is no worker's URL."""
    if url and not re.fullmatch(r"https?://[^/?#@\s]+/?", url):
        msg = f"{url!r} is no URL of a worker: http://host:port"
        raise ValidationError(msg)


def hosts(text: str) -> None:
    """Refuse what are no host names."""
    for name in split(text):
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name):
            msg = f"{name!r} is no host name: give names alone, without scheme and port, with commas between them"
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
