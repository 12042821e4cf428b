"""Routes, added up from the records of all workers. What no record has is null."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from agents.cluster.registry import SILENT_AFTER
from agents.tables.rows import Row

RATE_OVER = 10
"""Seconds over which rates are measured."""
MOST = 1_000
"""Routes that are listed at most."""
_TEXTS = ("results", "failures", "group")
_NUMBERS = ("partitions", "in_progress", "lag")
_OLDEST = "oldest_unfinished_s"
_COUNTS = ("outcomes", "waiting")


class _Note(NamedTuple):
    """What a worker had counted, by route, at a moment in seconds since the epoch."""

    started_at: str
    at: float
    counted: Mapping[str, int]


class RouteRates:
    """Samples what the workers have counted, once a second."""

    def __init__(self) -> None:
        self._notes: deque[dict[str, _Note]] = deque(maxlen=RATE_OVER + 1)

    def note(self, records: Iterable[Row]) -> None:
        """Sample the records of all workers, as the registry has them."""
        noted = ((record["id"], _noted(record)) for record in records if record["silent_s"] <= SILENT_AFTER)
        self._notes.append({name: note for name, note in noted if note is not None})

    def rate(self, route: str) -> float | None:
        """Return the records of a route a second, None if it is not known yet."""
        if not self._notes:
            return None
        first, latest = self._notes[0], self._notes[-1]
        rates = [_rate(route, note, first.get(worker)) for worker, note in latest.items() if route in note.counted]
        known = [rate for rate in rates if rate is not None]
        return round(sum(known), 1) if known else None


def _noted(record: Row) -> _Note | None:
    try:
        at = datetime.fromisoformat(record["at"]).timestamp()
        datetime.fromisoformat(record["started_at"])
    except (KeyError, TypeError, ValueError):
        return None
    counted = {route["name"]: sum(route["outcomes"].values()) for route in _routes(record)}
    return _Note(record["started_at"], at, counted)


def _rate(route: str, now: _Note, then: _Note | None) -> float | None:
    """Return a worker's records a second; one that was started since counts from 0."""
    if then is None or then.started_at != now.started_at:
        then = _Note(now.started_at, datetime.fromisoformat(now.started_at).timestamp(), {})
    lasted = now.at - then.at
    return max(0, now.counted[route] - then.counted.get(route, 0)) / lasted if lasted > 0 else None


def route_statuses(records: Iterable[Row], rates: RouteRates) -> list[Row]:
    """Return every route by name, with the workers that answer and have it: only they are counted."""
    described: dict[str, Row] = {}
    counted: dict[str, list[tuple[str, Row]]] = {}
    for record in records:
        for route in _routes(record):
            name = route["name"]
            if name in described or len(described) < MOST:
                described[name] = route
                counted.setdefault(name, [])
                if record["answering"]:
                    counted[name].append((record["id"], route))
    return [described[name] | _added(counted[name]) | {"rate": rates.rate(name)} for name in sorted(described)]


def _added(reports: list[tuple[str, Row]]) -> Row:
    routes = [route for _, route in reports]
    numbers = {name: _sum([each[name] for each in routes]) for name in _NUMBERS}
    if not numbers["partitions"]:  # no worker was given one yet: nobody knows the lag
        numbers["lag"] = None
    ages = [each[_OLDEST] for each in routes if each[_OLDEST] is not None]
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTS}
    for name, counter in counts.items():
        for each in routes:
            counter.update(each[name])
    return {**numbers, _OLDEST: max(ages, default=None), **{name: dict(counter) for name, counter in counts.items()},
            "workers": [worker for worker, _ in reports]}  # fmt: skip


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _routes(record: Row) -> list[Row]:
    """Return a worker's routes with the expected types: anyone who may write to the topic may write anything."""
    routes = (each for each in _list(record.get("routes")) if isinstance(each, dict))
    return [_plain(each) for each in routes if isinstance(each.get("name"), str)]


def _plain(route: Mapping[str, Any]) -> Row:
    lookups = [each for each in _list(route.get("lookups")) if isinstance(each, dict)]
    return {
        "name": route["name"],
        "topics": [str(each) for each in _list(route.get("topics"))],
        "patterns": [str(each) for each in _list(route.get("patterns"))],
        "lookups": [{name: str(each.get(name)) for name in ("name", "source")} for each in lookups],
        **{name: str(route.get(name, "")) for name in _TEXTS},
        **{name: value if type(value := route.get(name)) is int else None for name in _NUMBERS},
        **{name: _counts(route.get(name)) for name in _COUNTS},
        _OLDEST: value if type(value := route.get(_OLDEST)) in (int, float) else None,
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(value: Any) -> dict[str, int]:
    return {name: count for name, count in value.items() if type(count) is int} if isinstance(value, dict) else {}
