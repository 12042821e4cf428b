"""The tables are what an independent replay of the results topic makes of it, whatever happens to their workers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.kafka.broker import Broker
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked

pytestmark = pytest.mark.kafka

BOUNDS_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
COUNT = 20_000
"""Results between two kills."""
TABLES = ("answers", "hosts", "outcomes", "checks")


def result(number: int, **more: Any) -> bytes:
    """Result `number` as a worker would write it: some 40 hosts, some outcomes, some checks."""
    value: dict[str, Any] = {
        "id": f"r{number}",
        "outcome": "ok",
        "request": {"method": "GET", "url": f"http://h{number % 40}.test/doc/{number % 97}"},
    }
    if number % 11 == 0:
        value |= {
            "outcome": "timeout",
            "error": {"type": "Timeout", "message": f"took too long {number}", "retryable": True},
        }
    else:
        value |= {"status": 200, "document": {"n": number % 97}}
        if number % 3 == 0:
            value["checks"] = [
                {"name": f"check_{number % 5}", "field": "n", "value": True, "elapsed_ms": number % 7 / 2}
            ]
        value |= {
            "attempts": 1,
            "fetched_at": "2026-11-22T14:00:00.000Z",
            "cache": ("hit", "miss")[number % 2],
            "age": 1.5,
        }
    value["elapsed_ms"] = number % 400 / 10
    return json.dumps(value | more, separators=(",", ":")).encode()


async def put(stage: Stage, values: list[bytes | None], *, keys: int = 300) -> None:
    """Put results on their topic."""
    pending = [await stage.producer.send(stage.results, value, key=b"k%d" % (number % keys) if number % 17 else None)
               for number, value in enumerate(values)]  # fmt: skip
    await asyncio.gather(*pending)


async def records(stage: Stage, topic: str) -> list[ConsumerRecord]:
    """Read a topic, every record of it."""
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(stage.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(tps)
        found: list[ConsumerRecord] = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for fetched in (await consumer.getmany(timeout_ms=500)).values():
                found += fetched
        return found
    finally:
        await consumer.stop()


async def stored(stage: Stage) -> dict[str, dict[tuple[int, bytes], Any]]:
    """What the changelogs say: the latest row of each table by partition and key."""
    tables: dict[str, dict[tuple[int, bytes], Any]] = {}
    for table in TABLES:
        rows = tables[table] = {}
        for record in await records(stage, f"{stage.group}-tables-{table}-changelog"):
            rows[record.partition, record.key] = None if record.value is None else json.loads(record.value)
        tables[table] = {place: row for place, row in rows.items() if row is not None}
    return tables


def replayed(log: list[ConsumerRecord]) -> dict[str, dict[tuple[int, bytes], Any]]:
    """What an independent reading of the results adds up to."""
    tables: dict[str, dict[tuple[int, bytes], Any]] = defaultdict(dict)
    for record in log:
        try:
            value = json.loads(record.value)
            outcome, cache, elapsed = value["outcome"], value.get("cache"), value["elapsed_ms"]
        except (TypeError, ValueError, KeyError):
            continue
        place = record.partition
        bucket = next((n for n, bound in enumerate(BOUNDS_MS) if elapsed <= bound), len(BOUNDS_MS))
        key = record.key if record.key is not None else value["id"].encode()
        tables["answers"][place, key] = {"offset": record.offset, "result": value}
        minute = datetime.fromtimestamp(record.timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ").encode()
        host = value["request"]["url"].split("/")[2] + ":80"
        for table, name in (("outcomes", minute), ("hosts", host.encode())):
            row = tables[table].setdefault(
                (place, name), {"answers": {}, "cache": {}, "counts": [0] * 15, "micros": 0, "bytes": 0}
            )
            row |= {"offset": record.offset, "at": max(record.timestamp, row.get("at", 0))}
            row["answers"][outcome] = row["answers"].get(outcome, 0) + 1
            if cache:
                row["cache"][cache] = row["cache"].get(cache, 0) + 1
            row["counts"][bucket] += 1
            row["micros"] += round(elapsed * 1000)
            row["bytes"] += len(record.value)
            if table == "hosts" and "error" in value:
                row["last_error"] = {
                    "id": value["id"],
                    "outcome": outcome,
                    "message": value["error"]["message"],
                    "at": record.timestamp,
                }
        if cache in {None, "miss", "bypass"}:
            for check in value.get("checks", ()):
                row = tables["checks"].setdefault(
                    (place, check["name"].encode()), {"runs": 0, "failures": 0, "micros": 0, "slowest": 0}
                )
                row |= {"offset": record.offset, "at": max(record.timestamp, row.get("at", 0))}
                row["runs"] += 1
                row["failures"] += "error" in check
                row["micros"] += round(check["elapsed_ms"] * 1000)
                row["slowest"] = max(row["slowest"], round(check["elapsed_ms"] * 1000))
    return dict(tables)


async def until_counted(stage: Stage) -> None:
    """Wait until the tables' group has committed all of the results."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stage.servers, group_id=f"{stage.group}-tables", enable_auto_commit=False
    )
    await consumer.start()
    try:
        tps = [TopicPartition(stage.results, number) for number in range(stage.partitions)]
        consumer.assign(tps)
        async with asyncio.timeout(PATIENCE):
            while True:
                ends = await consumer.end_offsets(tps)
                if all([(await consumer.committed(tp) or 0) == end for tp, end in ends.items()]):
                    return
                await asyncio.sleep(0.1)
    finally:
        await consumer.stop()


async def assert_equal_to_replay(stage: Stage) -> None:
    """Fail unless the tables are what the results add up to."""
    found, expected = await stored(stage), replayed(await records(stage, stage.results))
    for table in TABLES:
        assert found[table].keys() == expected[table].keys()
        for place, row in expected[table].items():
            have = found[table][place]
            assert {name: have.get(name) for name in row} == row, (table, place)


async def tables_worker(stage: Stage, **settings: str) -> Worker:
    return await stage.start(MILLRACE_ROLE="tables", **settings)


async def test_tables_equal_a_replay_after_kills_in_mid_run(kafka: Broker, stage: Stage) -> None:
    """Killed several times in mid-run and restarted, the tables are what an independent replay of the results is."""
    worker = await tables_worker(stage)
    changelog = f"{stage.group}-tables-answers-changelog"
    for round_ in range(3):
        before = await stage.count(changelog)
        putting = asyncio.create_task(put(stage, [result(round_ * COUNT + number) for number in range(COUNT)]))
        async with asyncio.timeout(PATIENCE):
            while await stage.count(changelog) < before + COUNT // 10:
                await asyncio.sleep(0.01)
        worker.kill()
        await worker.ended()
        await putting
        if round_:
            assert found_more(await stored(stage), await records(stage, stage.results)), "killed too late"
        worker = await tables_worker(stage)
    await put(stage, [result(0), None, b"\xff\x00", b"{}", b"[1,2]", b'{"id":1}', b"1" * 10_000])
    await until_counted(stage)
    await assert_equal_to_replay(stage)
    worker.terminate()
    assert await worker.ended() == 0


def found_more(tables: dict[str, dict[tuple[int, bytes], Any]], log: list[ConsumerRecord]) -> bool:
    """Whether the results go on behind what the tables have counted."""
    counted = defaultdict(int)
    for (partition, _), row in tables["answers"].items():
        counted[partition] = max(counted[partition], row["offset"] + 1)
    return any(record.offset >= counted[record.partition] for record in log)


async def test_one_process_answers_and_tabulates(stage: Stage, upstream: Upstream) -> None:
    """A worker of the role `all`, the default, answers requests, counts the answers, and stops with 0."""
    worker = await stage.start(MILLRACE_ROLE="all")
    await stage.send([asked(f"{upstream.url}/doc/{number % 20}", number) for number in range(2_000)])
    await stage.until_results(2_000)
    await until_counted(stage)
    tables = await stored(stage)
    assert sum(row["answers"]["ok"] for row in tables["outcomes"].values()) == 2_000
    assert len(tables["answers"]) == 2_000
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/readyz?verbose") as response:
        assert "tables: ok" in await response.text()
    worker.terminate()
    assert await worker.ended() == 0
