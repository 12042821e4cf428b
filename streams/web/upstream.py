"""What the pages tell of a host: the worst that any worker says of its breaker, and what all have under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.histogram import Histogram

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_WORST = ("open", "half-open", "closed")


@dataclass(frozen=True, slots=True)
class HostStatus:
    """`breaker` is the worst of all workers, None if none tells; `with_it` is how many say so, of `workers`;
    `limit` is how many requests may be in flight together.
    """

    breaker: str | None
    with_it: int
    workers: int
    in_flight: int | None
    waiting: int | None
    limit: int | None
    held_seconds: float


def host_status(row: Mapping[str, Any]) -> HostStatus:
    """Add up what the workers tell of a host."""
    told = [each for each in row.get("workers", ()) if each.get("breaker")]
    states = [str(each["breaker"]).replace("_", "-") for each in told]
    worst = min(states, key=lambda state: _WORST.index(state) if state in _WORST else 0, default=None)
    in_flight, users = _sum(told, "in_flight"), _sum(told, "users")
    return HostStatus(
        breaker=worst,
        with_it=states.count(worst) if worst is not None else 0,
        workers=len(told),
        in_flight=in_flight,
        waiting=None if in_flight is None or users is None else max(0, users - in_flight),
        limit=_sum(told, "limit"),
        held_seconds=max((each.get("held_seconds") or 0.0 for each in told), default=0.0),
    )


def _sum(told: list[Mapping[str, Any]], name: str) -> int | None:
    known = [each[name] for each in told if each.get(name) is not None]
    return sum(known) if known and len(known) == len(told) else None


def quantile(row: Mapping[str, Any], name: str) -> float | None:
    """Return the seconds of `p50`, `p95` or `p99` of a row's latency; None if there is none of our kind."""
    try:
        return Histogram.from_row(row["latency"]).quantile(_SHARES[name])
    except (KeyError, TypeError, ValueError):
        return None
