"""What a request's own headers wish of a cache (RFC 9111, section 5.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streams.cache.freshness import directives, seconds


class Wishes(NamedTuple):
    """Seconds: the most that an answer's age may be, None for any, and the least that it must be fresh for."""

    max_age: float | None = None
    min_fresh: float = 0.0
    no_store: bool = False
    only_if_cached: bool = False


NONE = Wishes()


def read_wishes(headers: Mapping[str, str]) -> Wishes:
    """Read a request's Cache-Control, or without one its Pragma. What cannot be read counts as not said.

    `max-stale` is none of ours to grant: the upstream and its source say how stale an answer may be.
    """
    given = {name.lower(): value for name, value in headers.items() if name.lower() in ("cache-control", "pragma")}
    if not given:
        return NONE
    said = directives(given.get("cache-control", given.get("pragma", "")))
    if "cache-control" not in given:
        return Wishes(max_age=0.0) if "no-cache" in said else NONE
    min_fresh = seconds(said.get("min-fresh")) or 0.0
    max_age = 0.0 if "no-cache" in said else seconds(said.get("max-age"))
    if max_age is None and min_fresh:
        max_age = float("inf")
    return Wishes(max_age, min_fresh, "no-store" in said, "only-if-cached" in said)
