"""Aggregates the results of one partition: which rows a batch changes, and to what. Interim results change none.

A counted row (hosts, outcomes, checks) has the offset up to which it counts; results up to that offset are not counted
again. So a batch that is read again, in part or whole, changes nothing. Latencies are whole microseconds: their sum
does not depend on how results are cut into batches. Results of a batch that are alike are counted together.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from aiokafka import ConsumerRecord

from agents.tables.result_parser import InvalidResult, ParsedResult, ResultParser
from agents.tables.rows import RESULT, Row
from models.histogram import BOUNDS
from models.moment import AHEAD_MS, EARLIEST_MS, iso
from streams.tables.store import offset_of

Get: TypeAlias = Callable[[str, bytes], bytes | None]
Change: TypeAlias = tuple[str, bytes, bytes]
Seen: TypeAlias = tuple[int, int, int, int]
"""Of one result: its offset, timestamp in ms, microseconds and bytes."""

OUTCOMES_AGE = 86_400.0
"""Seconds that minutes are kept."""
AHEAD = 300.0
"""Seconds that a record's timestamp may lie ahead of ours and still be counted in its minute."""
MINUTE_MS = 60_000
NO_MINUTE = -1
"""The minute of a record whose timestamp is not credible: it is in none, since a replay would put it into another."""
RUN_NOW = frozenset({None, "miss", "bypass"})
"""Cache states of a result whose checks ran for it; in other states they are repeated from an earlier result."""

_BUCKETS = tuple(int(bound * 1_000_000) for bound in BOUNDS)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def answer_head(record: ConsumerRecord[bytes, bytes], result: ParsedResult, at: int) -> bytes:
    """Return the stored row of an answer without the result itself: JSON without its closing brace."""
    return b'{"offset":%d,"at":%d,"keyed":%b,"id":%b%b%b,"elapsed_ms":%.3f,"bytes":%d' % (
        record.offset, at, b"false" if record.key is None else b"true", result.id, result.shared.head,
        b"" if result.cache is None else b',"cache":"%b"' % result.cache.encode(),
        result.micros / 1000, len(record.value or b""),
    )  # fmt: skip


class Aggregator:
    """One for each held partition. `get` returns a stored row; `fits` returns whether an answer's row fits."""

    def __init__(self, parser: ResultParser, get: Get, fits: Callable[[bytes, int], bool], answers_age: float) -> None:
        self._parser = parser
        self._get = get
        self._fits = fits
        self._answers_age = answers_age
        self._answers: dict[bytes, tuple[ConsumerRecord[bytes, bytes], ParsedResult, int]] = {}
        self._groups: dict[tuple[tuple[str, str | None], str | None, int], list[Seen]] = {}
        self._hosts = _Counted("hosts", get, _new_counts)
        self._outcomes = _Counted("outcomes", get, _new_counts)
        self._checks = _Counted("checks", get, _new_check)
        self.unreadable = 0
        self.first_unreadable = ""

    def add(self, records: Sequence[ConsumerRecord[bytes, bytes]], now: float) -> None:
        """Add records, in offset order; `now` is in seconds since the epoch."""
        read, groups = self._parser.parse, self._groups
        oldest_answer = (now - self._answers_age) * 1000
        taken_at = int(now * 1000)  # replaces a timestamp that is not credible
        latest = taken_at + AHEAD_MS
        for record in records:
            value = record.value
            try:
                result = read(value)
            except InvalidResult as exc:
                self.unreadable += 1
                self.first_unreadable = self.first_unreadable or f"at offset {record.offset}: {exc}"
                continue
            if result.shared.interim:
                continue
            assert value is not None
            at = record.timestamp
            minute = at // MINUTE_MS
            if not EARLIEST_MS <= at <= latest:
                at, minute = taken_at, NO_MINUTE
            if at >= oldest_answer:
                self._answer(record, result, at)
            _, shared, cache, micros = result
            alike = shared.place, cache, minute
            seen = record.offset, at, micros, len(value)
            if alike in groups:
                groups[alike].append(seen)
            else:
                groups[alike] = [seen]
            if shared.error is not None or shared.checks:
                self._count_details(record.offset, result, at)

    def changes(self, now: float) -> Iterator[Change]:
        """Yield each touched row once, as it is now; answers in the order of their offsets."""
        for key, (record, result, at) in self._answers.items():
            yield "answers", key, self._answer_row(key, record, result, at)
        self._answers.clear()
        self._count(now)
        for counted in (self._hosts, self._outcomes, self._checks):
            yield from counted.changes()

    def _answer(self, record: ConsumerRecord[bytes, bytes], result: ParsedResult, at: int) -> None:
        key = record.key
        if key is None:
            key = json.loads(result.id).encode(errors="replace")
        if self._answers.pop(key, None) is None:
            stored = self._get("answers", key)
            if stored is not None and offset_of(stored) >= record.offset:
                return
        self._answers[key] = record, result, at

    def _answer_row(self, key: bytes, record: ConsumerRecord[bytes, bytes], result: ParsedResult, at: int) -> bytes:
        head = answer_head(record, result, at)
        row = b"%b%b%b}" % (head, RESULT, record.value or b"")
        return row if self._fits(key, len(row)) else head + b',"truncated":true}'

    def _count_details(self, offset: int, result: ParsedResult, at: int) -> None:
        """Keep a host's last error, and count checks."""
        shared = result.shared
        outcome, host = shared.place
        if shared.error is not None and host is not None:
            row = self._hosts.touch(host.encode(), offset, at)
            if row is not None:
                row["last_error"] = {
                    "id": json.loads(result.id), "outcome": outcome, "message": shared.error["message"], "at": at,
                }  # fmt: skip
        if result.cache in RUN_NOW:
            for run in shared.checks:
                row = self._checks.touch(run.name.encode(), offset, at)
                if row is not None:
                    row["runs"] += 1
                    row["failures"] += run.failed
                    row["micros"] += run.micros
                    row["slowest"] = max(row["slowest"], run.micros)

    def _count(self, now: float) -> None:
        oldest, latest = (now - OUTCOMES_AGE) * 1000, (now + AHEAD) * 1000
        for ((outcome, host), cache, minute), seen in self._groups.items():
            group = Group(outcome, cache, seen)
            if oldest <= (minute + 1) * MINUTE_MS and minute * MINUTE_MS <= latest:
                self._outcomes.count(_minute(minute), group)
            if host is not None:
                self._hosts.count(host.encode(), group)
        self._groups.clear()


class Group:
    """Results of one outcome and cache state, added up once."""

    def __init__(self, outcome: str, cache: str | None, seen: Sequence[Seen]) -> None:
        self.outcome = outcome
        self.cache = cache
        self.seen = seen
        self.at = max(map(itemgetter(1), seen))
        micros = sorted(map(itemgetter(2), seen))
        self.micros = sum(micros)
        self.bytes = sum(map(itemgetter(3), seen))
        if len(micros) == 1:
            self.buckets = [(bisect_left(_BUCKETS, self.micros), 1)]
        else:
            ends = [0, *(bisect_right(micros, bound) for bound in _BUCKETS), len(micros)]
            self.buckets = [(place, end - ends[place]) for place, end in enumerate(ends[1:]) if end > ends[place]]

    def behind(self, offset: int) -> Group | None:
        """Return the part of it after an offset, None if there is none."""
        if self.seen[0][0] > offset:
            return self
        left = [each for each in self.seen if each[0] > offset]
        return Group(self.outcome, self.cache, left) if left else None


class _OpenRow(NamedTuple):
    """A row being changed, and the offset up to which it counted before."""

    row: Row
    counted: int


class _Counted:
    """The counted rows of one table and partition that a batch touches."""

    def __init__(self, table: str, get: Get, new: Callable[[], Row]) -> None:
        self._table = table
        self._get = get
        self._new = new
        self._live: dict[bytes, _OpenRow] = {}

    def touch(self, key: bytes, offset: int, at: int) -> Row | None:
        """Return the row to count one record in; None if it has counted that record before."""
        row, counted = self._row(key)
        if offset <= counted:
            return None
        row["offset"] = max(row["offset"], offset)
        row["at"] = max(row["at"], at)
        return row

    def count(self, key: bytes, group: Group) -> None:
        """Count those of a group that were not counted before."""
        row, counted = self._row(key)
        fresh = group.behind(counted)
        if fresh is None:
            return
        row["offset"] = max(row["offset"], fresh.seen[-1][0])
        row["at"] = max(row["at"], fresh.at)
        answers, cache, counts = row["answers"], row["cache"], row["counts"]
        answers[fresh.outcome] = answers.get(fresh.outcome, 0) + len(fresh.seen)
        if fresh.cache is not None:
            cache[fresh.cache] = cache.get(fresh.cache, 0) + len(fresh.seen)
        for place, count in fresh.buckets:
            counts[place] += count
        row["micros"] += fresh.micros
        row["bytes"] += fresh.bytes

    def changes(self) -> Iterator[Change]:
        """Yield the touched rows."""
        for key, (row, counted) in self._live.items():
            if row["offset"] > counted:
                yield self._table, key, _encode(row).encode()
        self._live.clear()

    def _row(self, key: bytes) -> _OpenRow:
        live = self._live.get(key)
        if live is None:
            row = self._read(key)
            live = self._live[key] = _OpenRow(row, row["offset"])
        return live

    def _read(self, key: bytes) -> Row:
        """Return the stored row, or a new one if there is none of ours."""
        stored = self._get(self._table, key)
        new = self._new()
        if stored is None:
            return new
        try:
            row = json.loads(stored)
        except (ValueError, RecursionError):
            return new
        return row if _is_like(row, new) else new


def _is_like(row: Any, new: Row) -> bool:
    return (
        isinstance(row, dict)
        and all(type(row.get(name)) is type(value) for name, value in new.items())
        and all(type(count) is int for name in ("answers", "cache") for count in row.get(name, {}).values())
        and len(row.get("counts", ())) == len(new.get("counts", ()))
        and all(type(count) is int for count in row.get("counts", ()))
    )


def _new_counts() -> Row:
    counts = [0] * (len(BOUNDS) + 1)
    return {"offset": -1, "at": 0, "answers": {}, "cache": {}, "counts": counts, "micros": 0, "bytes": 0}


def _new_check() -> Row:
    return {"offset": -1, "at": 0, "runs": 0, "failures": 0, "micros": 0, "slowest": 0}


@lru_cache(maxsize=4096)
def _minute(number: int) -> bytes:
    """Return the key of a minute, counted from the epoch."""
    return (iso(number * MINUTE_MS)[:16] + "Z").encode()
