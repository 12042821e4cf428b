"""The numbers of the first page. Rates come from each worker's counts since its start, sampled once a second."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from agents.cluster.cluster_status import ClusterStatus
from agents.cluster.route_status import RouteRates
from agents.tables.rows import Row
from agents.web.api.tables import TableQuery
from models.histogram import Histogram
from models.moment import iso_now
from streams import ticks
from streams.tasks import end_tasks, keep
from streams.web.problems import Problem

logger = logging.getLogger(__name__)

NOTE_EVERY = 1.0
"""Seconds between two samples."""
RATE_OVER = 10
"""Seconds over which throughput is measured."""
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
WINDOW = 60
"""Seconds over which outcomes, quantiles and the cache's hit rate are measured, and minutes that are listed."""
HITS = frozenset({"hit", "stale", "revalidated"})
"""Cache states of answers for which no document was fetched."""


class Overview:
    """Opened with `async with`: samples meanwhile. `requests` is the topic whose lag is reported."""

    def __init__(self, cluster: ClusterStatus, tables: TableQuery, requests: str) -> None:
        self._cluster = cluster
        self._requests = requests
        self._tables = tables
        self._notes: deque[dict[str, Row]] = deque(maxlen=WINDOW + 1)
        self.route_rates = RouteRates()
        self._claimed: deque[frozenset[int]] = deque(maxlen=WINDOW + 1)
        self._noting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._noting = keep(self._note, "sampling rates", means="rates on the pages do not update", again=NOTE_EVERY)
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._noting)

    async def _note(self) -> None:
        while True:
            self.note()
            await ticks.sleep(NOTE_EVERY)

    def note(self) -> None:
        """Sample what every worker has counted so far."""
        if self._cluster.registry is not None:
            self.route_rates.note(self._cluster.registry.all())
            self._notes.append(
                {record["id"]: _noted(record) for record in self._cluster.registry.all() if _counts(record)}
            )
            self._claimed.append(frozenset(each["partition"] for each in self._claims()))

    async def report(self) -> dict[str, Any]:
        """Return the numbers, None where one is unknown. Raises Problem."""
        records = self._cluster.records()
        answering = [record for record in records if record["answering"]]
        in_flight = [each for record in answering if type(each := record.get("in_flight")) is int]
        minute = self._since(WINDOW)
        cache = _added(each["cache"] for each in minute)
        cached = sum(cache.values())
        numbers: dict[str, Any] = {
            "at": iso_now(),
            "workers": len(answering),
            "silent": len(records) - len(answering),
            "throughput": self._rate(),
            "lag": self._lag(),
            "in_flight": sum(in_flight) if in_flight else None,
            **quantiles(each["latency"] for each in minute),
            "cache_hit_rate": sum(cache[state] for state in HITS) / cached if cached else None,
            "outcomes": dict(_added(each["outcomes"] for each in minute)),
        }
        return numbers | await self._minutes()

    def _lag(self) -> int | None:
        """Return how many requests are not answered; None if the lag of a partition is unknown. It is for one that had
        an owner within the last minute and has none now: it is moving.
        """
        partitions = self._claims()
        if frozenset().union(*self._claimed) - {each["partition"] for each in partitions}:
            return None
        lags = [(0 if each["end"] == 0 else each["lag"]) if each["owner_answers"] else None for each in partitions]
        numbers = [lag for lag in lags if type(lag) is int]
        return sum(numbers) if numbers and len(numbers) == len(lags) else None

    def _claims(self) -> list[Row]:
        partitions = self._cluster.partitions()["partitions"]
        return [each for each in partitions if each["topic"] == self._requests and "route" not in each]

    def _since(self, seconds: int) -> list[Row]:
        """Return what each worker has counted since so many samples ago."""
        if not self._notes:
            return []
        first = self._notes[max(0, len(self._notes) - 1 - seconds)]
        return [_difference(record, self._before(record, first)) for record in self._notes[-1].values()]

    def _before(self, record: Row, first: Mapping[str, Row]) -> Row | None:
        """Return a worker's record then; its first one, if it was running before that came."""
        if (then := _of_same_run(record, first)) is not None:
            return then
        earliest = next(then for note in self._notes if (then := _of_same_run(record, note)) is not None)
        return earliest if _age(earliest) > WINDOW else None

    def _rate(self) -> float | None:
        if not self._notes:
            return None
        latest = self._notes[-1]
        first = self._notes[max(0, len(self._notes) - 1 - RATE_OVER)]
        rates: list[float] = []
        for record in latest.values():
            before = _of_same_run(record, first)
            counted = record["answers"]["total"] - (before["answers"]["total"] if before else 0)
            lasted = _seconds(record["at"]) - _seconds(before["at"] if before else record["started_at"])
            if record["silent_s"] <= RATE_OVER and lasted > 0:
                rates.append(max(0, counted) / lasted)
        return round(sum(rates), 1) if rates else None

    async def _minutes(self) -> dict[str, Any]:
        """Return the last hour minute by minute; an empty list, and the reason, if the tables are not there."""
        now = _now().replace(second=0, microsecond=0)
        names = [(now - timedelta(minutes=ago)).strftime("%Y-%m-%dT%H:%MZ") for ago in reversed(range(WINDOW))]
        try:
            found = await self._tables.rows("outcomes", [name.encode() for name in names])
        except Problem as exc:
            return {"minutes": [], "partial": {"missing": [{"worker": None, "reason": exc.detail}]}}
        rows = [found["rows"].get(name.encode(), {}) for name in names]
        minutes = [_minute(row) for row in rows if isinstance(row.get("answers"), dict) and "latency" in row]
        partial = {"partial": found["partial"]} if "partial" in found else {}
        return {"minutes": minutes, **partial}


def quantiles(latencies: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return p50, p95 and p99 in seconds of histograms added up, None without any."""
    whole = Histogram()
    for latency in latencies:
        with suppress(ValueError, KeyError, TypeError):  # another version's buckets
            whole.merge(Histogram.from_row(latency))
    return {name: whole.quantile(share) for name, share in SHARES.items()}


def _noted(record: Row) -> Row:
    """Return what rates need of a record: the rest, kept for a minute, would take 60 times its memory."""
    return {name: record[name] for name in ("id", "at", "started_at", "silent_s", "answers")}


def _counts(record: Row) -> bool:
    """Whether a record has valid counts of what its worker has answered."""
    try:
        _age(record)
        answers = record["answers"]
        figures = [answers["total"], *answers["outcomes"].values(), *answers["cache"].values()]
        return all(type(each) is int for each in [*figures, *answers["latency"]["counts"]])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _minute(row: Row) -> Row:
    answers = row["answers"]
    total = sum(each for each in answers.values() if type(each) is int)
    numbers = {"minute": row.get("minute"), "total": total, "outcomes": answers}
    return {**numbers, **quantiles([row["latency"]])}


def _of_same_run(record: Row, note: Mapping[str, Row]) -> Row | None:
    """Return a worker's record in a sample, None if the worker was restarted since: it counts from 0 again."""
    then = note.get(record["id"])
    return then if then is not None and then["started_at"] == record["started_at"] else None


def _difference(record: Row, before: Row | None) -> Row:
    now, then = record["answers"], (before or {}).get("answers", {})
    latency = now["latency"]
    counts = then.get("latency", {}).get("counts") or [0] * len(latency["counts"])
    return {
        "outcomes": Counter(now["outcomes"]) - Counter(then.get("outcomes", {})),
        "cache": Counter(now["cache"]) - Counter(then.get("cache", {})),
        "latency": {"le": latency.get("le"), "sum": 0.0,
                    "counts": [max(0, a - b) for a, b in zip(latency["counts"], counts, strict=False)]},
    }  # fmt: skip


def _added(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return whole


def _age(record: Row) -> float:
    return _seconds(record["at"]) - _seconds(record["started_at"])


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _now() -> datetime:
    return datetime.now(UTC)
