"""Secrets of sources: read once at the start, from the environment or a file, and never shown."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.source import Secret, Source

Steps = tuple[str, ...]
"""The path of a key in sources.toml."""
SECRET_COST = 1 << 12
"""Rounds (scrypt's n) of the digest of a secret in a source's identity: about 10 ms, once at the start."""


def secrets_in(table: Any) -> Iterator[tuple[Steps, Secret]]:
    """Yield path and reference of each secret in a source's table, `{env = "NAME"}` or `{file = "/path"}`."""
    for part in ("headers", "auth", "tls"):
        inner = table.get(part) if isinstance(table, dict) else None
        for name, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, dict) and len(value) == 1:
                [(kind, place)] = value.items()
                if kind in ("env", "file") and isinstance(place, str) and place:
                    yield (part, name), Secret(kind, place)


def secrets_of(source: Source) -> Iterator[str]:
    """Yield the secrets of a source. Raises ValueError for one that cannot be read."""
    parts = [part for part in (source.auth, source.tls) if part is not None]
    fields = [getattr(part, field.name) for part in parts for field in dataclasses.fields(part)]
    for value in (*source.secret_headers.values(), *fields):
        if isinstance(value, Secret):
            yield read_secret(value)


def read_secret(secret: Secret) -> str:
    """Return a secret. Raises ValueError saying why there is none, never what it is."""
    if secret.kind == "env":
        text = os.environ.get(secret.name, "").strip()
    else:
        try:
            text = Path(secret.name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            msg = f"{secret.name!r} cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}"
            raise ValueError(msg) from None
    if not text:
        msg = f"{secret.name} is not set" if secret.kind == "env" else f"{secret.name!r} is empty"
        raise ValueError(msg)
    if not text.isascii() or not text.isprintable():
        msg = f"{secret.name!r} holds characters that cannot be sent: visible ASCII only"
        raise ValueError(msg)
    return text


def hardened(secret: str, salt: str) -> bytes:
    """Digest a secret slowly: a source's identity goes into cache keys, which others may read."""
    return hashlib.scrypt(secret.encode(), salt=salt.encode(), n=SECRET_COST, r=8, p=1, dklen=16)
