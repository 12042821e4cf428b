"""What is kept in memory is bounded, by number and where values are large by bytes, whatever comes."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from yarl import URL

from agents.answer import parsed_requests as known
from agents.answer.parsed_requests import ParsedRequestCache
from agents.cluster import registry as workers
from agents.cluster.registry import WorkerRegistry
from agents.tables import result_parser as reading
from agents.tables.result_parser import ResultParser
from agents.web.api.overview import Overview
from models.checks import builtin
from streams.config.settings import Kafka, Settings
from streams.http import guard, limits
from streams.http import stats as tally
from streams.http.guard import Guard
from streams.http.limits import Hosts
from streams.http.stats import OTHERS, UpstreamStats
from streams.kafka import tail
from streams.kafka.tail import Tail
from streams.telemetry import logs as flood
from streams.telemetry.logs import FloodGate


def request(number, **members):
    return json.dumps({"id": "r", "url": f"http://h/{number}", **members}).encode()


@pytest.mark.parametrize("members", [{}, {"method": "POST", "body": {"nested": [1] * 40}}])
def test_known_requests_are_bounded_by_bytes(monkeypatch, members):
    """Two generations of so much memory, of nested requests fewer than of plain ones; those met last are known."""
    book = ParsedRequestCache()
    for number in range(200):
        book.parse(request(number, **members))
    assert len(book._young) == 200
    each = book._young_bytes // 200
    monkeypatch.setattr(known, "GENERATION_BYTES", 20 * each)
    for number in range(200, 400):
        book.parse(request(number, **members))
        assert book._young_bytes <= 20 * each
    assert len(book._young) + len(book._old) <= 41
    assert book._young_bytes == sum(
        known.OVERHEAD + len(rest) * (known.NESTED_FACTOR if members else known.PLAIN_FACTOR) for rest in book._young
    )


def test_results_that_were_read_are_bounded_by_number_and_bytes(monkeypatch):
    """Shared parts of results, and none that is large for itself."""
    monkeypatch.setattr(reading, "MEMO_ENTRIES", 10)
    monkeypatch.setattr(reading, "MEMO_BYTES", 2_000)
    monkeypatch.setattr(reading, "MEMO_LARGEST", 500)
    reader = ResultParser()
    for size in (1, 100, 1_000):
        for number in range(50):
            document = f'"{number}{"x" * size}"'
            reader.parse(
                b'{"id":"r","outcome":"ok","document":%b,"cache":"hit","age":1.0,"elapsed_ms":1.0}' % document.encode()
            )
            assert len(reader._shared) <= 10
            assert sum(map(len, reader._shared)) <= 2_000


def record(name, value):
    return SimpleNamespace(key=name.encode(), value=value, timestamp=0)


def test_workers_records_are_bounded_by_number_and_bytes(monkeypatch):
    """Anybody may write there: a record that is too large is none, and beyond all bytes the oldest go."""
    monkeypatch.setattr(workers, "MOST", 5)
    monkeypatch.setattr(workers, "MAX_RECORD", 100)
    monkeypatch.setattr(workers, "MAX_RECORDS", 250)
    now = [1000.0]
    heard = WorkerRegistry(Settings(), clock=lambda: now[0])
    for number in range(20):
        now[0] += 1
        heard.receive(record(f"w{number}", json.dumps({"pad": "x" * (5 if number < 10 else 80)}).encode()))
    assert [each["id"] for each in heard.all()] == ["w18", "w19"]
    heard.receive(record("large", json.dumps({"pad": "x" * 100}).encode()))
    assert heard.unreadable == 1
    heard.receive(record("w19", None))
    assert set(heard._workers) == set(heard._sizes) == {"w18"}


def test_the_overviews_notes_keep_what_rates_are_made_of():
    """A minute of notes does not hold sixty times every worker's hosts and partitions."""
    answers = {"total": 1, "outcomes": {}, "cache": {}, "latency": {"counts": [], "le": []}}
    told = {"id": "w", "at": "2026-11-22T14:00:01Z", "started_at": "2026-11-22T14:00:00Z", "silent_s": 0.0,
            "answers": answers, "hosts": ["x"] * 1000, "partitions": []}  # fmt: skip
    fleet = SimpleNamespace(registry=SimpleNamespace(all=lambda: [told]), partitions=lambda: {"partitions": []})
    overview = Overview(fleet, None, "requests")
    for _ in range(100):
        overview.note()
    assert len(overview._notes) == 61
    assert set(overview._notes[-1]["w"]) == set(told) - {"hosts", "partitions"}


def test_what_watchers_are_shown_is_bounded_by_number_and_bytes(monkeypatch):
    """The rest is counted as dropped."""
    monkeypatch.setattr(tail, "MAX_SHOWN_BYTES", 1000)
    opened = Tail(Kafka(), "results")
    shown = []
    opened._watchers.add(lambda records, dropped: shown.append((len(records), dropped)))
    opened._take([SimpleNamespace(value=b"x" * 400, headers=()) for _ in range(5)])
    opened._show()
    opened._last_shown = 0.0
    opened._take([SimpleNamespace(value=b"x", headers=()) for _ in range(tail.MAX_SHOWN + 7)])
    opened._show()
    assert shown == [(2, 3), (tail.MAX_SHOWN, 7)]


def test_kinds_of_lines_are_bounded(monkeypatch):
    """Messages that are made of values are told apart by their beginnings, and no more than so many."""
    monkeypatch.setattr(flood, "MAX_KINDS", 10)
    gate = FloodGate(lambda _: None)
    for number in range(50):
        gate.filter(logging.LogRecord("l", logging.INFO, "", 0, f"{number}" + "x" * 10_000, (), None))
    assert len(gate._intervals) == 10
    assert max(len(kind[2]) for kind in gate._intervals) == flood.MAX_MESSAGE


def test_hosts_are_bounded_but_for_those_in_use(monkeypatch):
    """One that nobody uses goes for one that is new."""
    monkeypatch.setattr(limits, "MAX_HOSTS", 10)
    hosts = Hosts()
    for number in range(50):
        hosts.of(f"h{number}:80")
    assert len(hosts) == 10


def test_origins_that_the_guard_let_through_are_bounded(monkeypatch):
    """Each is judged again after the rest was forgotten."""
    monkeypatch.setattr(guard, "MAX_REMEMBERED", 10)
    judge = Guard()
    for number in range(50):
        judge.check(URL(f"http://h{number}.example/"))
        assert len(judge._passed) <= 10


def test_metrics_name_so_many_sources():
    """Those beyond share one label."""
    counted = UpstreamStats()
    for number in range(tally.MAX_SOURCES + 50):
        counted.add(f"s{number}", "2xx")
    assert len(counted.requests) <= tally.MAX_SOURCES + 2
    assert counted.requests[OTHERS, "2xx"] >= 49


def test_validators_of_large_schemas_are_not_kept(monkeypatch):
    """Parsed, a schema of a mebibyte takes twenty, in the worker's children each."""
    monkeypatch.setattr(builtin, "MAX_KEPT_SCHEMA", 100)
    builtin._validator.cache_clear()
    for size in (10, 1_000):
        schema = {"type": "string", "description": "x" * size}
        assert [builtin.json_schema(value, schema) for value in ("text", 5)] == [True, False]
    assert builtin._validator.cache_info().currsize == 1
