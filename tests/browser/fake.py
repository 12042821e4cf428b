"""A `Query` without Kafka: what the pages show, as the API gives it, and made so that a test can change it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from models.dead_letter import DeadLetterFilter
from models.histogram import Histogram
from streams.web.problems import Problem

Row = dict[str, Any]
OUTCOMES = {"ok": 930, "timeout": 28, "upstream_error": 17, "invalid_document": 9, "denied": 4, "invalid_request": 12}
HOSTS = ("api.example.com:443", "quotes.example.org:443", "inventory.example.net:443", "ledger.example.com:8443")
KEYS = {"answers": "key", "hosts": "host", "outcomes": "minute", "checks": "name"}
FAILURES = (
    ("timeout", "no answer from api.example.com:443 within 10 s"),
    ("invalid_document", "document.price: Not a valid number."),
    ("denied", "the guard denies 10.1.2.3: private network 10.0.0.0/8"),
    ("upstream_error", "quotes.example.org:443 answered 503 after 4 attempts"),
)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def latency(seed: int, count: int = 1000) -> Row:
    chance = random.Random(seed)
    histogram = Histogram()
    histogram.add_sorted(sorted(chance.lognormvariate(-4.2, 1.1) for _ in range(count)))
    return histogram.row()


def answer(number: int, at: datetime, **more: Any) -> Row:
    """Make a row of the table answers."""
    chance = random.Random(number)
    [outcome] = chance.choices(list(OUTCOMES), list(OUTCOMES.values()))
    host = HOSTS[number % len(HOSTS)]
    row: Row = {
        "key": f"item-{number:05}", "keyed": True, "id": f"requests-{number % 4}-{number}", "outcome": outcome,
        "cache": chance.choice(("hit", "hit", "hit", "miss", "coalesced")), "status": 200,
        "url": f"https://{host.removesuffix(':443')}/v1/items/{number}", "host": host, "fetched_at": iso(at),
        "at": iso(at), "elapsed_ms": round(chance.lognormvariate(1.5, 1.4), 1), "attempts": 1,
        "partition": number % 4, "offset": number, "bytes": 412,
    }  # fmt: skip
    if outcome != "ok":
        message = f"{host} answered 503 after 4 attempts"
        row |= {"status": 503, "cache": "miss", "attempts": 4,
                "error": {"type": "UpstreamError", "message": message, "retryable": True}}  # fmt: skip
    return row | more


class FakeQuery:
    """Two workers, four partitions, some hundreds of answers."""

    def __init__(self, answers: int = 400) -> None:
        now = datetime.now(UTC)
        self.answers = [answer(number, now - timedelta(seconds=number * 0.4)) for number in range(answers)]
        self.letters = [letter(number, now) for number in range(23)]
        self.hosts_told = [host(name, number, now) for number, name in enumerate(HOSTS)]
        self.routes_told = [
            {"name": "orders", "topics": ["orders", "returns"], "patterns": ["^returns.*"],
             "results": "orders-enriched", "failures": "orders-failed",
             "lookups": [{"name": "risk", "source": "scores"}, {"name": "prices", "source": "prices"}],
             "group": "millrace-orders", "partitions": 8,
             "outcomes": {"ok": 41_820, "passed": 310, "upstream_error": 7},
             "in_progress": 64, "waiting": {"source scores": 61}, "lag": 1_204, "rate": 48.5,
             "oldest_unfinished_s": 25.3,
             "workers": ["mill-a", "mill-b"]},
            {"name": "webhook", "topics": ["orders-enriched"], "results": "delivered", "failures": "dead-letters",
             "lookups": [{"name": "hook", "source": "hook"}], "group": "millrace-webhook", "partitions": None,
             "outcomes": {}, "in_progress": None, "waiting": {}, "lag": None, "rate": None, "workers": []},
        ]  # fmt: skip
        self.sampled: Row | None = sample("orders", 3, 99_121)
        self.silent: dict[str, float] = {}
        self.recovering: dict[str, int] = {}
        self.lag: int | None = 42
        self.throughput = 1_284.0
        self.problem: Problem | None = None
        self.partial: Row = {}

    def _told(self, value: Row) -> Row:
        if self.problem is not None:
            raise self.problem
        return value | self.partial

    async def overview(self) -> Row:
        now = datetime.now(UTC)
        return self._told({
            "at": iso(now), "workers": 2 - len(self.silent), "silent": len(self.silent),
            "throughput": self.throughput, "lag": self.lag, "in_flight": 37, "p50": 0.0041, "p95": 0.084, "p99": 0.412,
            "cache_hit_rate": 0.873, "outcomes": {name: count * 76 for name, count in OUTCOMES.items()},
            "minutes": [minute(now - timedelta(minutes=ago)) for ago in reversed(range(60))],
        })  # fmt: skip

    async def tables(self) -> Row:
        told = {
            "answers": (len(self.answers), "the latest result by key"),
            "hosts": (4, "per upstream host: answers, cache, latency, last error"),
            "outcomes": (60, "per minute of the last 24 hours"),
            "checks": (2, "per check: runs, failures, time"),
        }
        return self._told({"tables": [{"name": name, "rows": rows, "description": text, "fields": []}
                                      for name, (rows, text) in told.items()]})  # fmt: skip

    def _of(self, name: str) -> Sequence[Row]:
        now = datetime.now(UTC)
        if name == "answers":
            return self.answers
        if name == "hosts":
            return self.hosts_told
        if name == "outcomes":
            return [{"minute": (now - timedelta(minutes=ago)).strftime("%Y-%m-%dT%H:%MZ"), "answers": OUTCOMES,
                     "cache": {"hit": 800}, "latency": latency(ago, 100), "bytes": 1_200_000}
                    for ago in range(60)]  # fmt: skip
        if name == "checks":
            return [{"name": check, "runs": 12_400, "failures": 3, "seconds": 41.5, "slowest_ms": 18.4,
                     "last_seen": iso(now)} for check in ("is_prime", "json_schema")]  # fmt: skip
        raise Problem(404, f"no table {name!r}")

    async def rows(self, name: str, *, prefix: str = "", where: Iterable[tuple[str, str]] = (),
                   begins: Iterable[tuple[str, str]] = (), sort: str = "key", limit: int = 50,
                   cursor: str = "") -> Row:  # fmt: skip
        key = KEYS.get(name, "key")
        found = [row for row in self._of(name) if str(row.get(key, "")).startswith(prefix)
                 and all(str(row.get(field)) == value for field, value in where)
                 and all(str(row.get(field)).startswith(value) for field, value in begins)]  # fmt: skip
        by = key if sort.removeprefix("-") == "key" else sort.removeprefix("-")
        found.sort(key=lambda row: (by in row, row.get(by, "")), reverse=sort.startswith("-"))
        start = int(cursor or 0)
        page: Row = {"rows": found[start : start + limit], "total": len(found)}
        return self._told(page | ({"cursor": str(start + limit)} if start + limit < len(found) else {}))

    async def row(self, name: str, key: bytes) -> Row | None:
        for row in self._of(name):
            own = base64.b64decode(row["key_base64"]) if "key_base64" in row else row[KEYS[name]].encode()
            if own == key:
                return self._told({"result": result(row)} | row if "id" in row else row)
        return self._told({}) or None

    async def workers(self) -> Row:
        now = datetime.now(UTC)
        return self._told({"workers": [
            {"id": name, "role": "all", "url": f"http://{name}:6066", "version": "0.1.0",
             "started_at": iso(now - timedelta(hours=5 + number)), "at": iso(now), "state": "running",
             "partitions": [{"topic": "requests", "partition": each, "lag": None if self.lag is None else self.lag // 4}
                            for each in (number * 2, number * 2 + 1)],
             "tables": {"partitions": [number * 2, number * 2 + 1], "recovered": name not in self.recovering,
                        "lag": self.recovering.get(name, 0)},
             "answers": {"total": 4_182_000 + number}, "in_flight": 18 + number, "rss": 182 * 2**20,
             "loop_lag_s": 0.0021, "silent_s": self.silent.get(name, 0.4), "answering": name not in self.silent}
            for number, name in enumerate(("mill-a", "mill-b"))
        ]})  # fmt: skip

    async def partitions(self) -> Row:
        owners = [f"mill-{'aabb'[number]}" for number in range(4)]
        return self._told({"partitions": [
            {"topic": "requests", "partition": number, "owner": owner, "owner_answers": owner not in self.silent,
             "committed": 1_045_000 + number, "end": None if self.lag is None else 1_045_010 + number,
             "lag": None if self.lag is None else 10, "in_flight": 9, "unfinished": 10, "oldest_unfinished_s": 0.8}
            for number, owner in enumerate(owners)
        ] + [
            {"topic": "orders", "partition": 3, "route": "orders", "owner": "mill-b", "owner_answers": True,
             "committed": 99_110, "end": None if self.lag is None else 99_130,
             "lag": None if self.lag is None else 20, "in_flight": 3, "unfinished": 4,
             "oldest_unfinished_s": 25.3}
        ]})  # fmt: skip

    async def hosts(self, *, prefix: str = "", sort: str = "key", limit: int = 50, cursor: str = "") -> Row:
        return await self.rows("hosts", prefix=prefix, sort=sort, limit=limit, cursor=cursor)

    async def routes(self) -> Row:
        return self._told({"routes": self.routes_told})

    async def route(self, name: str) -> Row:
        return {**next(each for each in self.routes_told if each["name"] == name), "sample": self.sampled}

    async def errors(self, *, limit: int = 50, selected: DeadLetterFilter | None = None) -> Row:
        wanted = selected.outcomes if selected is not None else None
        return self._told(
            {"errors": [each for each in self.letters if not wanted or each["outcome"] in wanted][:limit]}
        )

    async def retry_later(self) -> Row:
        topic = {"topic": "millrace-later-60s", "delay_s": 60, "waiting": 1_234, "deferred": 5_000, "taken_up": 3_766,
                 "partitions": 8, "next_due": "2026-11-22T14:00:05.000Z", "overdue_s": 0.0}  # fmt: skip
        return self._told({"topics": [topic], "exhausted": 12})

    async def source_rows(self) -> Row:
        rows = (await self.rows("hosts", limit=2))["rows"]
        found = [{"name": f"source-{number}", "url": "https://api.example.com/v1/{symbol}", "host": row["host"],
                  "row": row} for number, row in enumerate(rows) if "host" in row]  # fmt: skip
        return self._told({"sources": [*found, {"name": "any", "url": "https://old.example/", "row": {"host": ""}}]})

    async def sources(self) -> Row:
        return self._told({"sources": [{"name": "quotes", "url": "https://api.example.com/v1/{symbol}"}]})


def minute(at: datetime) -> Row:
    """Make a minute of the overview."""
    name = at.strftime("%Y-%m-%dT%H:%MZ")
    chance = random.Random(name)
    total = int(76_000 * (1 + 0.18 * chance.random()) * (1 + 0.25 * ((at.minute % 30) / 30)))
    failed = int(total * chance.choice((0.02, 0.03, 0.05, 0.05, 0.16)))
    p50 = 0.004 + 0.002 * chance.random()
    return {"minute": name, "total": total, "outcomes": {"ok": total - failed, "timeout": failed}, "p50": p50,
            "p95": p50 * (14 + 6 * chance.random()), "p99": p50 * (60 + 40 * chance.random())}  # fmt: skip


def host(name: str, number: int, now: datetime) -> Row:
    """Make a row of the table hosts, with what two workers tell of it."""
    failed = 18_000 if number == 2 else 240
    row: Row = {
        "host": name, "answers": {"ok": 1_044_000 - failed, "timeout": failed}, "cache": {"hit": 900_000},
        "latency": latency(number), "bytes": 431_000_000, "last_seen": iso(now),
        "workers": [{"worker": "mill-a", "breaker": "open" if number == 2 else "closed", "in_flight": 3 * number,
                     "users": 4 * number, "limit": 32},
                    {"worker": "mill-b", "breaker": "closed", "in_flight": 2, "users": 2, "limit": 32}],
    }  # fmt: skip
    if number in (1, 2):
        row["last_error"] = {"id": "requests-2-99121", "outcome": "timeout", "at": iso(now),
                             "message": f"no answer from {name} within 10 s"}  # fmt: skip
    return row


def route(text: str) -> Row:
    """Make a route of which everything is called by the text."""
    return {"name": text, "topics": [text], "patterns": [text],
            "lookups": [{"name": text, "source": text + "2"}], "results": text,
            "failures": text, "group": text, "partitions": 1, "outcomes": {text: 7}, "in_progress": 1,
            "waiting": {text: 2}, "lag": 3, "rate": 0.5, "workers": [text]}  # fmt: skip


def sample(text: str, partition: int, offset: int) -> Row:
    """Make a record of a route, walked through, with a lookup that failed."""
    value = '{"customer": {"id": "c7"}}'
    return {
        "at": "2026-11-22T14:00:00.123Z", "outcome": "ok",
        "read": {"topic": text, "partition": partition, "offset": offset, "timestamp": 1_795_356_000_000,
                 "key": "customer-7", "value": value, "headers": {"traceparent": "00-1-2-01"}},
        "lookups": [
            {"lookup": "risk", "source": "scores", "outcome": "ok", "into": "risk",
             "questions": [{"method": "GET", "url": "https://scores.example/c7"}],
             "cache": "hit", "value": "0.10", "checks": '[{"name":"range"}]'},
            {"lookup": "prices", "source": "prices", "questions": [{}], "outcome": "timeout", "into": None,
             "error": "no answer within 10 s"},
        ],
        "published": {"topic": f"{text}-enriched", "value": value[:-1] + ',"risk":0.10}'},
    }  # fmt: skip


def letter(number: int, now: datetime) -> Row:
    """Make a dead letter."""
    outcome, message = FAILURES[number % len(FAILURES)]
    told = {
        "partition": number % 4, "offset": 400 - number, "at": iso(now - timedelta(seconds=13 * number)),
        "key": f"item-{number * 7:05}", "id": f"requests-{number % 4}-{99_000 - number}", "outcome": outcome,
        "message": message, "attempts": 4, "redriven": number == 3,
        "origin": {"topic": "requests", "partition": number % 4, "offset": 99_000 - number},
    }  # fmt: skip
    return told | ({"flaw": "it lacks the headers of a dead letter"} if number == 5 else {})


def result(row: Row) -> Row:
    """Make the whole result of an answer."""
    return {
        "id": row["id"], "outcome": row["outcome"], "request": {"method": "GET", "url": row.get("url", "")},
        "status": 200,
        "document": {"id": 7, "n": 112272535095293, "tags": ["a", "b"], "price": {"amount": "12.40", "currency": "EUR"},
                     "note": None, "active": True, "history": [{"at": "2026-11-01", "n": 3}]},
        "checks": [{"name": "is_prime", "field": "n", "value": True, "elapsed_ms": 0.024}], "cache": "hit",
        "age": 12.5, "attempts": 1, "elapsed_ms": row["elapsed_ms"], "fetched_at": row["fetched_at"],
    }  # fmt: skip


class FakeTail:
    """The end of a results topic to which a test writes."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[Sequence[Any], int], None]] = []

    @contextmanager
    def watching(self, watcher: Callable[[Sequence[Any], int], None]) -> Iterator[None]:
        self.watchers.append(watcher)
        yield
        self.watchers.remove(watcher)

    def push(self, *rows: Row, dropped: int = 0) -> None:
        records = [SimpleNamespace(key=row.get("key", "").encode(), value=json.dumps(row).encode()) for row in rows]
        for watcher in tuple(self.watchers):
            watcher(records, dropped)


def row_of(record: Any) -> Row:
    """Make a row of a record that `FakeTail.push` made."""
    return dict(json.loads(record.value))
