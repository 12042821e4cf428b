"""How many files (sockets among them) this process may have open, and how they are shared out."""

from __future__ import annotations

import resource
from typing import NamedTuple

MAX_WEB = 512
"""Connections that the web server keeps at once, a quarter of all files at most."""
MIN_RESERVED = 128
"""Files kept for all else: Kafka, caches, tables, the pool. An eighth of all at least, a quarter at most for these."""


class Share(NamedTuple):
    """Who may have how many of `limit` files: `upstream` those for fetches, `web` the connections of the web server."""

    limit: int
    upstream: int
    web: int


def share(limit: int | None = None) -> Share:
    """Share out so many files; those that this process may have now unless given."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    web = min(MAX_WEB, limit // 4)
    reserved = max(min(MIN_RESERVED, limit // 4), limit // 8)
    return Share(limit, limit - web - reserved, web)


def raise_limit() -> str:
    """Raise the soft limit to the hard one and say what it is; the system's default of 1,024 is one for `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # more than the kernel has for one process
        return f"{soft:,} open files allowed; the limit cannot be raised to {hard:,}"
    return f"{hard:,} open files allowed" + ("" if soft == hard else f", raised from {soft:,}")
