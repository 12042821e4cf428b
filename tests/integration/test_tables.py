"""The tables are what an independent replay of the results topic makes of it, whatever happens to their workers."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from agents.cluster.registry import WorkerRegistry
from agents.testing.broker import Broker
from streams.config.settings import Kafka, Settings
from streams.kafka.topics import Admin
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
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers, auto_offset_reset="earliest", fetch_max_wait_ms=20)
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
        places = [("outcomes", minute)]
        if host := value.get("request", {}).get("url", "").partition("//")[2].partition("/")[0]:
            places.append(("hosts", (host if ":" in host else f"{host}:80").encode()))
        for table, name in places:
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
        bootstrap_servers=stage.servers,
        group_id=f"{stage.group}-tables",
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
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
        rows = expected.get(table, {})
        assert found[table].keys() == rows.keys()
        for place, row in rows.items():
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


def listening(stage: Stage) -> WorkerRegistry:
    """The records of this test's workers."""
    kafka = Kafka(bootstrap_servers=stage.servers)
    return WorkerRegistry(Settings(kafka=kafka, group=stage.group, workers_topic=f"workers-{stage.mark}"))


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds, and return what it returned."""
    async with asyncio.timeout(PATIENCE):
        while not (found := condition()):
            await asyncio.sleep(0.05)
    return found


def told(workers: WorkerRegistry) -> dict[str, dict[str, Any]]:
    """What each worker told last of its tables."""
    return {record["id"]: record["tables"] for record in workers.all()}


def shared(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]] | None:
    """Return what two workers tell, once each has two partitions and has recovered."""
    return tables if [len(each["partitions"]) for each in tables.values() if each["recovered"]] == [2, 2] else None


async def test_two_workers_share_the_tables_and_give_up_what_goes(kafka: Broker, stage: Stage) -> None:
    """A second worker takes half of the partitions, whose rows the first forgets; when it goes, they come back."""
    first = await tables_worker(stage, MILLRACE_WORKER_ID="one")
    await put(stage, [result(number) for number in range(4000)])
    await until_counted(stage)
    whole = await stored(stage)
    async with listening(stage) as workers:
        await until(lambda: told(workers).get("one", {}).get("rows", {}).get("answers") == len(whole["answers"]))
        second = await tables_worker(stage, MILLRACE_WORKER_ID="two")
        putting = asyncio.create_task(put(stage, [result(number) for number in range(4000, 8000)]))
        both = await until(lambda: shared(told(workers)))
        assert set(both["one"]["partitions"]) | set(both["two"]["partitions"]) == {0, 1, 2, 3}
        await putting
        await until_counted(stage)
        await assert_equal_to_replay(stage)
        whole = await stored(stage)
        for name, told_of in both.items():
            mine = [place for place in whole["answers"] if place[0] in told_of["partitions"]]
            await until(lambda name=name, mine=mine: told(workers)[name]["rows"]["answers"] == len(mine))
        second.terminate()
        assert await second.ended() == 0
        await until(lambda: told(workers)["one"]["partitions"] == [0, 1, 2, 3])
        await until(lambda: told(workers)["one"]["rows"]["answers"] == len(whole["answers"]))
        await put(stage, [result(number) for number in range(8000, 9000)])
        await until_counted(stage)
        await assert_equal_to_replay(stage)
        assert told(workers)["one"]["gaps"] == 0
    first.terminate()
    assert await first.ended() == 0


async def test_tables_are_kept_within_their_bounds(kafka: Broker, stage: Stage) -> None:
    """Answers beyond the bound go, the oldest first; one past its age, and a minute of yesterday, are not taken in."""
    worker = await tables_worker(stage, MILLRACE_ANSWERS_ROWS="50", MILLRACE_ANSWERS_AGE="3600")
    now = int(time.time() * 1000)
    await stage.producer.send_and_wait(stage.results, result(1), key=b"old", partition=0, timestamp_ms=now - 3_700_000)
    await stage.producer.send_and_wait(
        stage.results, result(2), key=b"older", partition=0, timestamp_ms=now - 90_000_000
    )
    for number in range(200):
        await stage.producer.send(stage.results, result(number), key=b"%d" % number, partition=0)
    await stage.producer.flush()
    await until_counted(stage)
    async with asyncio.timeout(PATIENCE):
        while len((tables := await stored(stage))["answers"]) > 50:
            await asyncio.sleep(0.2)
    assert {key for _, key in tables["answers"]} == {b"%d" % number for number in range(150, 200)}
    assert sum(sum(row["answers"].values()) for row in tables["outcomes"].values()) == 201
    assert sum(sum(row["answers"].values()) for row in tables["hosts"].values()) == 202
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_result_too_large_for_its_row_keeps_its_head(kafka: Broker, stage: Stage) -> None:
    """A result that its topic just took, and whose row the changelog would refuse, is a row without the result."""
    await tables_worker(stage)
    empty = len(result(0, document=""))
    await stage.producer.send_and_wait(stage.results, result(0, document=""), key=b"small")
    big = AIOKafkaProducer(bootstrap_servers=stage.servers, max_request_size=2 << 20)
    await big.start()
    try:
        await big.send_and_wait(stage.results, result(1, document="x" * (1_048_588 - empty - 200)), key=b"large")
        await big.send_and_wait(stage.results, b'{"id":"x","outcome":"ok"}', key=b"k" * 1_048_480)
    finally:
        await big.stop()
    await until_counted(stage)
    rows = {key: row for (_, key), row in (await stored(stage))["answers"].items()}
    assert set(rows) == {b"small", b"large"}, "under a key that is too large itself there is no row"
    assert (rows[b"large"]["truncated"], rows[b"large"]["id"], "result" in rows[b"large"]) == (True, "r1", False)
    assert "truncated" not in rows[b"small"]


async def test_tables_on_disk_go_on_from_where_they_reach(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """With rocksdb:// a killed worker keeps its rows, reads the rest of the changelogs, and equals a replay."""
    folder = {"MILLRACE_STORE": f"rocksdb://{tmp_path / 'tables'}"}
    worker = await tables_worker(stage, **folder)
    await put(stage, [result(number) for number in range(4000)])
    await until_counted(stage)
    second = await stage.start(MILLRACE_ROLE="tables", ready=False, **folder)
    assert await second.ended() == 2
    assert any("in use by another worker" in line for line in second.log)
    putting = asyncio.create_task(put(stage, [result(number) for number in range(4000, 14_000)]))
    await asyncio.sleep(0.3)  # into the run
    worker.kill()
    await worker.ended()
    await putting
    worker = await tables_worker(stage, **folder)
    found = await worker.logged(r"tables recovered: (\d+) rows of (\d+) partitions")
    rows = sum([len(await records(stage, f"{stage.group}-tables-{table}-changelog")) for table in TABLES])
    assert int(found[1]) < rows / 2, "it read all of the changelogs"
    await until_counted(stage)
    await assert_equal_to_replay(stage)
    worker.terminate()
    assert await worker.ended() == 0


async def test_changelogs_that_are_too_small_are_enlarged(kafka: Broker, stage: Stage) -> None:
    """A changelog with fewer partitions than the results have is given as many before anything is counted."""
    name = f"{stage.group}-tables-hosts-changelog"
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin.create(name, 2, 1)
        await admin.settled(name)
        worker = await tables_worker(stage)
        await worker.logged(f"topic {name}: {stage.partitions} partitions, as many as {stage.results} has, were 2")
        assert (await admin.describe(name))[name].partitions == stage.partitions


async def equals_a_replay_soon(stage: Stage) -> None:
    """Wait until what was written over has been written again, and the tables are what the results add up to."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await assert_equal_to_replay(stage)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def test_what_a_former_owner_writes_late_is_written_over(kafka: Broker, stage: Stage) -> None:
    """An old row that arrives in a changelog behind a newer one is noticed, and ours is written again behind it."""
    worker = await tables_worker(stage, MILLRACE_WORKER_ID="one")
    await put(stage, [result(number) for number in range(500)])
    await until_counted(stage)
    topic = f"{stage.group}-tables-hosts-changelog"
    (partition, host), row = next(iter((await stored(stage))["hosts"].items()))
    stale = json.dumps(row | {"offset": row["offset"] - 1, "bytes": 0}, separators=(",", ":")).encode()
    await stage.producer.send_and_wait(topic, stale, key=host, partition=partition)
    await stage.producer.send_and_wait(topic, b'"of nobody"', key=b"stranger", partition=partition)
    assert (await stored_raw(stage, topic))[partition, host] == stale
    await stage.producer.send_and_wait(stage.results, result(1), key=b"k", partition=partition)
    async with asyncio.timeout(PATIENCE):
        while (await stored_raw(stage, topic)).get((partition, b"stranger")) is not None:
            await asyncio.sleep(0.2)
    await until_counted(stage)
    await equals_a_replay_soon(stage)
    async with listening(stage) as workers:
        await until(lambda: told(workers).get("one", {}).get("gaps") == 1)
    assert sum("another worker wrote offsets" in line for line in worker.log) == 1


async def stored_raw(stage: Stage, topic: str) -> dict[tuple[int, bytes], bytes | None]:
    """The latest value of each key of a changelog."""
    return {(record.partition, record.key): record.value for record in await records(stage, topic)}


async def test_results_made_anew_are_counted_anew(kafka: Broker, stage: Stage) -> None:
    """When the results topic was deleted and made again, the tables are those of the new one."""
    worker = await tables_worker(stage)
    await put(stage, [result(number) for number in range(2000)])
    await until_counted(stage)
    worker.terminate()
    assert await worker.ended() == 0
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers)
    await admin.start()
    await admin.delete_topics([stage.results])
    await admin.close()
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as again, asyncio.timeout(PATIENCE):
        while stage.results in await again.describe(stage.results):
            await asyncio.sleep(0.1)
        await again.create(stage.results, stage.partitions, 1)
        await again.settled(stage.results)
    async with Stage(stage.servers, mark=stage.mark) as fresh:  # a producer that does not remember the old one
        await put(fresh, [result(number) for number in range(100, 300)])
        await tables_worker(fresh)
        await until_counted(fresh)
        await assert_equal_to_replay(fresh)


async def test_a_frozen_owner_comes_back_and_spoils_nothing(kafka: Broker, stage: Stage) -> None:
    """A worker frozen in mid-run past its session comes back when another has its partitions: all equals a replay."""
    first = await tables_worker(stage)
    putting = asyncio.create_task(put(stage, [result(number) for number in range(COUNT)]))
    async with asyncio.timeout(PATIENCE):
        while await stage.count(f"{stage.group}-tables-answers-changelog") < COUNT // 20:
            await asyncio.sleep(0.01)
    first.process.send_signal(signal.SIGSTOP)
    try:
        await putting
        second = await tables_worker(stage)  # ready once the group has given up on the first
        await put(stage, [result(number) for number in range(2000)])
        await until_counted(stage)
    finally:
        first.process.send_signal(signal.SIGCONT)
    await put(stage, [result(number) for number in range(3000)])
    await stage.until_ready(first)
    await until_counted(stage)
    await equals_a_replay_soon(stage)
    second.kill()
    await second.ended()
    await put(stage, [result(number) for number in range(4000)])
    await until_counted(stage)
    await equals_a_replay_soon(stage)
    first.terminate()
    assert await first.ended() == 0
