"""What the results of one partition add up to: which rows a batch changes, and to what.

A counted row (hosts, outcomes, checks) says up to which offset it counts; what lies at or below it is not counted
again. So a batch that is read again, in part or whole, changes nothing. Latencies are whole microseconds: their sum is
the same however the results were cut into batches.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from aiokafka import ConsumerRecord

from agents.reading import Reader, Reading, Unreadable
from agents.rows import iso
from models.latency import BOUNDS
from streams.tables.store import mark

Row: TypeAlias = dict[str, Any]
Get: TypeAlias = Callable[[str, bytes], bytes | None]
Change: TypeAlias = tuple[str, bytes, bytes]

OUTCOMES_AGE = 86_400.0
"""Seconds that minutes are kept."""
AHEAD = 300.0
"""Seconds that a record's timestamp may lie ahead of ours and still be counted in its minute."""
MINUTE_MS = 60_000
MAX_AT = 4_102_444_800_000
"""Milliseconds since the epoch, the year 2100: timestamps beyond are taken for it."""
RUN_NOW = frozenset({None, "miss", "bypass"})
"""Cache states of a result whose checks ran for it; in the others they are repeated from an earlier one."""

_BUCKETS = tuple(int(bound * 1_000_000) for bound in BOUNDS)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def answer_head(record: ConsumerRecord[bytes, bytes], reading: Reading, at: int) -> bytes:
    """Return how the row of an answer is stored, but for the result itself: JSON without its closing brace."""
    return b'{"offset":%d,"at":%d,"keyed":%b,"id":%b%b%b,"elapsed_ms":%.3f,"bytes":%d' % (
        record.offset, at, b"false" if record.key is None else b"true", reading.id, reading.shared.head,
        b"" if reading.cache is None else b',"cache":"%b"' % reading.cache.encode(),
        reading.micros / 1000, len(record.value or b""),
    )  # fmt: skip


class Tally:
    """One for each held partition. `get` returns a row as stored; `fits` says whether an answer's row can be sent."""

    def __init__(self, reader: Reader, get: Get, fits: Callable[[bytes, int], bool], answers_age: float) -> None:
        self._reader = reader
        self._get = get
        self._fits = fits
        self._answers_age = answers_age
        self._answers: dict[bytes, tuple[ConsumerRecord[bytes, bytes], Reading, int]] = {}
        self._hosts = _Counted("hosts", get, _counted)
        self._outcomes = _Counted("outcomes", get, _counted)
        self._checks = _Counted("checks", get, _check)
        self.unreadable = 0
        self.first_unreadable = ""

    def take(self, records: Sequence[ConsumerRecord[bytes, bytes]], now: float) -> None:
        """Count records, in offset order; `now` is in seconds since the epoch."""
        read = self._reader.read
        oldest_answer = (now - self._answers_age) * 1000
        oldest_minute, latest_minute = (now - OUTCOMES_AGE) * 1000, (now + AHEAD) * 1000
        for record in records:
            try:
                reading = read(record.value)
            except Unreadable as exc:
                self.unreadable += 1
                self.first_unreadable = self.first_unreadable or f"at offset {record.offset}: {exc}"
                continue
            at = min(max(record.timestamp, 0), MAX_AT)
            if at >= oldest_answer:
                self._answer(record, reading, at)
            shared = reading.shared
            if oldest_minute <= at <= latest_minute:
                self._count(self._outcomes, _minute(at // MINUTE_MS), record, reading, at)
            if shared.host is not None:
                row = self._count(self._hosts, shared.host.encode(), record, reading, at)
                if row is not None and shared.error is not None:
                    row["last_error"] = {"id": json.loads(reading.id), "outcome": shared.outcome,
                                         "message": shared.error["message"], "at": at}  # fmt: skip
            if shared.checks and reading.cache in RUN_NOW:
                self._run(record.offset, reading, at)

    def changes(self) -> Iterator[Change]:
        """Yield each row that was touched since, once, as it is now; answers in the order of their offsets."""
        for key, (record, reading, at) in self._answers.items():
            yield "answers", key, self._answer_row(key, record, reading, at)
        self._answers.clear()
        for counted in (self._hosts, self._outcomes, self._checks):
            yield from counted.changes()

    def _answer(self, record: ConsumerRecord[bytes, bytes], reading: Reading, at: int) -> None:
        key = record.key
        if key is None:
            key = json.loads(reading.id).encode(errors="replace")
        earlier = self._answers.pop(key, None)
        if earlier is None:
            stored = self._get("answers", key)
            found = None if stored is None else mark(stored)
            if found is not None and found.offset >= record.offset:
                return
        self._answers[key] = record, reading, at

    def _answer_row(self, key: bytes, record: ConsumerRecord[bytes, bytes], reading: Reading, at: int) -> bytes:
        head = answer_head(record, reading, at)
        row = b'%b,"result":%b}' % (head, record.value or b"")
        return row if self._fits(key, len(row)) else head + b',"truncated":true}'

    @staticmethod
    def _count(
        counted: _Counted, key: bytes, record: ConsumerRecord[bytes, bytes], reading: Reading, at: int
    ) -> Row | None:
        row = counted.touch(key, record.offset, at)
        if row is None:
            return None
        answers, cache, outcome, state = row["answers"], row["cache"], reading.shared.outcome, reading.cache
        answers[outcome] = answers.get(outcome, 0) + 1
        if state is not None:
            cache[state] = cache.get(state, 0) + 1
        row["counts"][bisect_left(_BUCKETS, reading.micros)] += 1
        row["micros"] += reading.micros
        row["bytes"] += len(record.value or b"")
        return row

    def _run(self, offset: int, reading: Reading, at: int) -> None:
        rows: dict[str, Row | None] = {}
        for run in reading.shared.checks:  # one check may be there on several fields
            if run.name not in rows:
                rows[run.name] = self._checks.touch(run.name.encode(), offset, at)
            row = rows[run.name]
            if row is not None:
                row["runs"] += 1
                row["failures"] += run.failed
                row["micros"] += run.micros
                row["slowest"] = max(row["slowest"], run.micros)


class _Counted:
    """The counted rows of one table and partition that a batch touches."""

    def __init__(self, table: str, get: Get, new: Callable[[], Row]) -> None:
        self._table = table
        self._get = get
        self._new = new
        self._rows: dict[bytes, Row] = {}
        self._touched: set[bytes] = set()

    def touch(self, key: bytes, offset: int, at: int) -> Row | None:
        """Return the row to count a record in; None if it has counted that record already."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._read(key)
        if offset <= row["offset"]:
            return None
        row["offset"] = offset
        row["at"] = max(row["at"], at)
        self._touched.add(key)
        return row

    def changes(self) -> Iterator[Change]:
        """Yield what was touched."""
        for key in self._touched:
            yield self._table, key, _encode(self._rows[key]).encode()
        self._touched.clear()
        self._rows.clear()

    def _read(self, key: bytes) -> Row:
        """Return what is stored, or a new row where there is none or none of ours."""
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


def _counted() -> Row:
    counts = [0] * (len(BOUNDS) + 1)
    return {"offset": -1, "at": 0, "answers": {}, "cache": {}, "counts": counts, "micros": 0, "bytes": 0}


def _check() -> Row:
    return {"offset": -1, "at": 0, "runs": 0, "failures": 0, "micros": 0, "slowest": 0}


@lru_cache(maxsize=4096)
def _minute(number: int) -> bytes:
    """Return the key of a minute, counted from the epoch."""
    return (iso(number * MINUTE_MS)[:16] + "Z").encode()
